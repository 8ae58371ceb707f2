"""A recipe's hash is its run's identity: the hashes of the first release, which runs on people's disks carry.

A key that is added later must not change them (``documents.Later``). Where a part's numbers change, its
``version`` does, and its row here with it.
"""

import pytest

from isoflop.core.recipe import Recipe
from isoflop.lab.study import Study

SMALL = "a509606fea2b9c9024c55150b1f82918ae6015d32fa2b630b4b66cb2374f989e"
PARTS = {
    "optimizer=adafactor": "ba942fc07171ad5ec6bb376fbbbdc2db305e7da56f9637e75e069b6df80b192c",
    "optimizer=adalayer": "c351b2882df27bf03ec5d41b03993bf3f1bdda823ba457ac2ccdb2e6779ce93f",
    "optimizer=adamw": "a0e9fff0a0bf7cde7f852e45790fba185eab55c5a168a73a76a5a97fa7d5f79b",
    "optimizer=ademamix": "40fbed1ea226024780674218204219f00b481aa16d961be6d96e7d1c399d9b72",
    "optimizer=gauss_newton": "561de36ee984b1a4e97ad582ca12e2513d3d9fcb7b63f4ec2bcb40e2e671bfed",
    "optimizer=gpa": "d28fabd281b73ad4f4a9dc4c61994d2cc951550e1f0e8f96e64b81807f2ad09a",
    "optimizer=lion": "ba1f0874a68da0bf06aacb56f51078ae122d44859630c253f736f4f2aac9fe9d",
    "optimizer=mars": "0eab12f4a80d4166a97e81908bec7ca3310c884c99e4fee57922b6f478f32634",
    "optimizer=muon": "38731c9cd0d645065e45607b16bf22984ae58a78ee070d4531605972a1045dba",
    "optimizer=sgd_adalayer": "5ff613bf83db842773d646d958b7965a1bdee11a4ab347b4d7003d428655cc11",
    "optimizer=shampoo": "2cce95e34cfef8bf49210853989347da128c3dee80550d08c23e1474d4b15c1b",
    "optimizer=signum": "b161886100e6deaf901f9961b0be7911b45968ab1ef2e94a039356ea493c91f6",
    "optimizer=simplified_ademamix": "55aed42765f15f0275246806eb6ae123dadb8e24cb32cd7cb490e012f6a0ae14",
    "optimizer=soap": "03da27df6f7c09b6536155517bbeb24edd6c8007fbe47cfcf508a7a6926b5f8c",
    "optimizer=sophia_g": "ebcb0dcdf0be6393935fd00c214d54f78e3f88bf9fea0d20e9485dcb9aa36e8d",
    "schedule=constant": "2b780755b2a833619d0d0c432204737afb658a04241dc0df4244df70cb64ca41",
    "schedule=cosine": "a509606fea2b9c9024c55150b1f82918ae6015d32fa2b630b4b66cb2374f989e",
    "schedule=inverse_sqrt": "012586c849657e81dcc7f3f9361d3debdb4acde72dd4ea9141545c323ad921a2",
    "schedule=linear": "37aa42fc5db7aa46fed11ac349c374f37c9cf0e507f17cf4d3d35c5d381c2208",
    "schedule=trapezoid": "bcb42735f9019c09b8b911747a1406fe0c2919a681b15cf7115612db3bebbed8",
    "schedule=warmup": "d9152cf3fe326365084b3e2d77fe20c40c7c387785199f54d8b85b581b708867",
    "schedule=wsd": "8b22137856b7182a4f24d7c35355462bd8727afbcb1b5b1d2385a58a26b39bfe",
    "averaging=ema": "b17ebab6a2bd3827ee8119d2b70b0633746d6531b728d24493f90d3a2b99103e",
    "averaging=half_life": "41864b021a230f001ab7da53741b427d582f889a5c7a3e137f67b2ded5d85c9f",
    "averaging=latest_k": "acce7fd26b55d3c70f2753356089e51ff79dfdf09547b9db3b2da8cfb333ad83",
    "averaging=several": "01fef7f4d7e36e621515cf5b15392837658e512857d5b54ae89592da886a0169",
    "averaging=sfa": "ca423e56609599a2d114a7dcdbabce88209b2aebd2750e44132401c067c730bc",
    "averaging=tail": "968f30ff4a8f69737c8fb8cbf8f265e291cb7843b47d7232c5d4e804d336958c",
    "source=hmm": "e632b9437ecf4ef816f37030adcc858b9280849e19f4e1200b6700fd4004b08d",
    "source=pcfg": "ac218aa795e1bb2cef8d57324d85ed8de2d121e315b122c873212041d72f6356",
    "source=stdlib": "a509606fea2b9c9024c55150b1f82918ae6015d32fa2b630b4b66cb2374f989e",
}
"""Override of the shipped recipe ``small`` -> its hash."""
STUDIES = {
    ("demo", "adamw"): "ae799f20a4ee8c1468f2b1229d83e520fa5a21c5f36006e178cb5b723ada004c",
    ("demo", "muon"): "dca9f3a222bed721c1b936c70695d59729628064e27d7cc9e182d8104ceca51f",
    ("demo", "squared-relu"): "e9fdc20aa68f29cb327d915ab55334fd13491b09157d9381d407ffd6534a03d6",
    ("demo", "wsd"): "b1bb6388b0c7f6dadfb4586ade0d0fcdf5a2e7e39ad93549955b610999c5ab48",
    ("unit-init", "adamw"): "e4e11172d42958434e204b424228f2a76e9018110378f379cdeea4c722b8750e",
    ("unit-init", "muon"): "81ce92d403d22bd6f1bfdbf04b1101c91b5adc8e754be9f17ccf33ccbd4b8886",
    ("small-init", "adamw"): "35f77709ff3f50d771b0c4a1da6055ed11b84289b21b085040f77ae3474eb605",
    ("small-init", "muon"): "228686b31e5fcb4a9c57859c7257c54530a5528dfde96f3bc6e509adf621a5bc",
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
