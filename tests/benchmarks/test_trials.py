"""Le prove di messa a punto pubblicate: i ritmi tornano con i tempi, e con il lavoro delle gare."""

import json

import pytest

from benchmarks import bench_beyond_flash_attention as flash
from benchmarks import bench_s5_2_hardware_schedule as training
from benchmarks.bench_s3_model_architecture import on_meta, weights_per_token
from gpu_notes.sm_map import H200, peak
from weave.house import ROOT

TRIAL = json.loads(
    (ROOT / "benchmarks" / "trials" / "2026-11-26-nvidia-h200.json").read_text(encoding="utf-8")
)


def test_ceilings_stay_below_the_datasheet():
    for form, it in TRIAL["ceilings"]["gemm"].items():
        assert it["datasheet"] == pytest.approx(peak(H200, form) / 1e9, rel=1e-4)
        assert it["gflops"] < it["datasheet"]
    assert TRIAL["ceilings"]["copy_gbs"] < TRIAL["ceilings"]["datasheet_gbs"] == 4800


def test_rates_of_training_follow_from_the_times():
    for it in TRIAL["training"]["rows"]:
        work = training.training_work(it["model"], training.SIZES[it["model"]][0])
        assert it["tflops"] == pytest.approx(work.flops / it["ms"] / 1e9, rel=1e-3)
        tokens = training.BATCH * training.LENGTH
        assert it["tokens_per_second"] == pytest.approx(tokens / it["ms"] * 1e3, rel=1e-3)


def test_fractions_of_decoding_follow_from_weights_and_copy():
    for it in TRIAL["decoding"]["rows"]:
        weights = weights_per_token(on_meta(training.SIZES[it["model"]][0]))
        width = {"bfloat16": 2, "float32": 4}[it["dtype"]]
        bound = weights * width / TRIAL["decoding"]["copy_gbs"] / 1e3
        assert it["bound_fraction"] == pytest.approx(bound / it["us_per_token"], rel=1e-3)
        assert it["same_tokens"] in (None, 1.0)


def test_rates_of_attention_follow_from_the_times():
    for it in TRIAL["attention"]["rows"]:
        pairs = it["n"] ** 2 / (2 if it["causal"] else 1)
        products = 2 if it["way"] == "forward" else 5
        flops = 2 * products * flash.TOKENS / it["n"] * flash.HIDDEN * pairs
        assert it["tflops"] == pytest.approx(flops / it["ms"] / 1e9, rel=1e-3)
