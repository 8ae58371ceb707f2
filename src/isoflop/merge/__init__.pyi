# Written by `make docs`.
# ruff: noqa
from .methods.arcee_fusion import arcee_fusion as arcee_fusion
from .methods.breadcrumbs import breadcrumbs as breadcrumbs
from .methods.breadcrumbs_ties import breadcrumbs_ties as breadcrumbs_ties
from .methods.dare import dare as dare
from .methods.dare_linear import dare_linear as dare_linear
from .methods.dare_ties import dare_ties as dare_ties
from .methods.della import della as della
from .methods.della_linear import della_linear as della_linear
from .methods.karcher import karcher as karcher
from .methods.linear import linear as linear
from .methods.model_stock import model_stock as model_stock
from .methods.multislerp import multislerp as multislerp
from .methods.nearswap import nearswap as nearswap
from .methods.neon import neon as neon
from .methods.nuslerp import nuslerp as nuslerp
from .methods.passthrough import passthrough as passthrough
from .methods.ram import ram as ram
from .methods.ramplus_tl import ramplus_tl as ramplus_tl
from .methods.sce import sce as sce
from .methods.slerp import slerp as slerp
from .methods.task_arithmetic import task_arithmetic as task_arithmetic
from .methods.ties import ties as ties
from .methods.ties_paper import ties_paper as ties_paper
from .methods.ties_peft import ties_peft as ties_peft
from .methods.wise_ft import wise_ft as wise_ft
