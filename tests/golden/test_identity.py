"""A recipe's hash is its run's identity: the hashes of the first release, which runs on people's disks carry.

A key that is added later must not change them (``documents.Later``). Where a part's numbers change, its
``version`` does, and its row here with it.
"""

import pytest

from isoflop.core.recipe import Recipe
from isoflop.lab.study import Study

SMALL = "c3fa7a4ab9d312809a06d3e17e46a838d7b00f84c0a9e076da9adbc1625d92f3"
PARTS = {
    "optimizer=adafactor": "2381167f0d8e990ca5a2e473547ef34cde8e30a1a662d521b55f87b75ed0be77",
    "optimizer=adalayer": "237c09e34148845f1c964911227a76976c2aed89550ecc68ac4f22c9da09addf",
    "optimizer=adamw": "26d91f14d71be5b39678e5b97553dbfdc4c05bbc5947a3060810de48c7849899",
    "optimizer=ademamix": "5b02848a9d779caa70383d407a7a54d77e008dfa48937e4b3a6922b0dd8767b5",
    "optimizer=gauss_newton": "53cd102ad4d6d18f85a3f61a03020168116b671ea9bd279b48d27be1e178664c",
    "optimizer=gpa": "6cd52bfe174d4032f4976138d683a0685a8659875d278ccb20dfc76ea1ea8e87",
    "optimizer=lion": "bc4c9fe74a360082e98a9803e85d1422bfb08009c97cca994787061a7e1c1c08",
    "optimizer=mars": "d2091ba3864835494b3bf857e55e0a2af80896e2abb6f77948efaeb6cb66cb50",
    "optimizer=muon": "00b070146d4fb1e06c2c5b5f29c70d69014fd5f2a5a72b58de78cb2c1e08aecb",
    "optimizer=sgd_adalayer": "1776916674242a5637357f198a4c4c95e855a0100bf8b5a31d21d49cf2f48890",
    "optimizer=shampoo": "23082841203c7ebeea645b827604fb52d15e9ba1295cab84642d9ffd5cbcdb86",
    "optimizer=signum": "abf929d5c297457dc49c28b9473daa71fd481b56ab776ad52fedffe1efdef5e5",
    "optimizer=simplified_ademamix": "224dc859f86a233ae2d438e556c86a71da27cdabbccda00eb77b318a210796e5",
    "optimizer=soap": "065c640d8db6ce8daffaa4adf6129a738e68005a20735c031ef7b1a49ec0e2bf",
    "optimizer=sophia_g": "4b5f5c0a7fd21deff45cbdb75f90e3800abb6bf1fa5463969d252dd492482fed",
    "schedule=constant": "dae057249284576a839102843eae6beb9063032fa04a376030a6afbc59369d19",
    "schedule=cosine": "c3fa7a4ab9d312809a06d3e17e46a838d7b00f84c0a9e076da9adbc1625d92f3",
    "schedule=inverse_sqrt": "9157c0f4b2c107be608d8d2fcd44a7063fadb15879d66982feb86e9218b8f9f6",
    "schedule=linear": "2bcc3a5199d41090cd2b66c5ae91e0c74acb1c827afe6dff7b1e21079615f781",
    "schedule=trapezoid": "397bea0b23946d3bacffac3dba28f659ed08690583fd69b45a654caeb7a66bb5",
    "schedule=warmup": "9d571c59416eaac8cf78bf5a0808dd4631d5dad7e14f9c053a4b30ea8553a1d9",
    "schedule=wsd": "6b8a20dd8244420b77d1e7ae34f8ad62e2b85e8a324182050e56a2e8256f21ca",
    "averaging=ema": "2a6929ccfbb4f81888fa4f4050bd601012ed9e6db0c0ed99915db18b671d9982",
    "averaging=half_life": "17653119091d494ed541d640fb386715f364e298fa78da8eb264d45e9b7029f2",
    "averaging=latest_k": "5988f1ebd0c13df69ed8544518130d683f62f6985f78a2f20b1c697052c1c2d1",
    "averaging=several": "efcf0370fd8693eb8ab7173600e7ca983831ae42ec471f92e2126f2dd151ffea",
    "averaging=sfa": "54d5d4eff902c7fa84f437f6d5823745d75d1273890593fe83bf0217cf747a40",
    "averaging=tail": "01439c30a41464649ac03fa0b86e88a655e266294caf1fccc70922968be40089",
    "source=hmm": "e632b9437ecf4ef816f37030adcc858b9280849e19f4e1200b6700fd4004b08d",
    "source=pcfg": "ac218aa795e1bb2cef8d57324d85ed8de2d121e315b122c873212041d72f6356",
    "source=stdlib": "c3fa7a4ab9d312809a06d3e17e46a838d7b00f84c0a9e076da9adbc1625d92f3",
}
"""Override of the shipped recipe ``small`` -> its hash."""
STUDIES = {
    ("demo", "adamw"): "b089bd99b64e7c168d142b735dbb7e139e2e7981de61028e94538037e113ada7",
    ("demo", "muon"): "388ac8306e9d538baa36a528d64b0b8d4d68355cd6e1d1096831a3ba3f778087",
    ("small-init", "adamw"): "584920be7380fd017c1e7b5a19fc1c44deeaff0445fd5cf6f84975fb96f01ff8",
    ("small-init", "muon"): "bc3553144fac0af39d5b454d00eeef2f479efc7b830842032a8b7c24d36fe0e2",
}
"""Shipped study and arm -> hash of the arm's run at the lowest rung with the first seed."""


def test_the_shipped_recipe_keeps_its_hash():
    assert Recipe.load("small").hash == SMALL


@pytest.mark.parametrize("override", PARTS)
def test_every_part_keeps_its_hash(override):
    assert Recipe.load("small", override).hash == PARTS[override]


@pytest.mark.parametrize(("study", "arm"), STUDIES)
def test_the_shipped_studies_keep_the_hashes_of_their_runs(study, arm):
    loaded = Study.load(study)
    assert loaded.run_recipe(arm, 0, loaded.seeds[0]).hash == STUDIES[study, arm]
