"""I risultati: ogni file pubblicato rispetta lo schema, e uno guasto si ferma con il suo nome.

Il file di un'altra macchina, messo fra gli altri, arriva sulle pagine senza toccare nient'altro.
"""

import copy
import re
from functools import reduce

import pytest
from matplotlib.figure import Figure
from pymdownx.superfences import SuperFencesException

from benchmarks import bench_s1_introduction as introduction
from benchmarks import bench_s3_2_1_scaled_dot_product as scaled
from benchmarks import bench_s3_2_2_multi_head as multi_head
from benchmarks import bench_s3_model_architecture as model
from benchmarks import bench_s4_why_self_attention as why
from benchmarks import provenance, publish, schema
from weave import measurements
from weave.house import ROOT
from weave.measurements import BENCHMARKS, declared, latest, misura, render

FILES = sorted(BENCHMARKS.glob("results/*/*.json"))


@pytest.fixture(params=FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def path(request):
    return request.param


# I file pubblicati.


def test_results_are_published():
    assert FILES


def test_published_file_respects_the_schema(path):
    assert schema.read(path)["benchmarks"]


def test_published_file_lies_in_the_folder_of_its_machine(path):
    found = schema.read(path)
    assert list(schema.misplaced(path, found)) == []
    assert path == publish.place(found)


def test_published_session_tells_where_it_comes_from_and_not_its_network_name(path):
    found = schema.read(path)
    assert found["machine_info"].keys() <= provenance.machine().keys()
    assert found["machine_info"]["packages"].keys() <= set(provenance.PACKAGES)
    assert {entry["group"] for entry in found["benchmarks"]} <= set(declared())


def work_of(group, label, shape):
    """Il lavoro che i benchmark dichiarano oggi per una gara già pubblicata."""
    if group == "s1_introduction":
        return introduction.work(**shape)
    if group in ("s3_2_1_scaled_dot_product", "s3_2_1_causal"):
        return scaled.work(shape["n"], causal=group == "s3_2_1_causal")
    if group == "s3_2_2_multi_head":
        return multi_head.work(**shape)
    if group in ("s4_growth_n", "s4_growth_d"):
        return why.work(**shape, label=label)
    if group == "s3_greedy_decoding":
        return model.greedy_work(model.base(shape["vocabulary"]))
    if group in ("s3_training_step", "s3_training_parts", "s3_training_autocast"):
        return model.training_work(model.base(shape["vocabulary"]))
    return None


def test_published_work_is_the_work_of_the_formulas(path):
    checked = 0
    for entry in schema.read(path)["benchmarks"]:
        info = entry["extra_info"]
        work = work_of(entry["group"], info["label"], info["shape"])
        if work is not None:
            width = {"float32": 4, "bfloat16": 2}[info["dtype"]]
            assert (work.label, work.flops) == (info["label"], info["flops"])
            assert info["bytes"] == (work.bytes or work.numbers * width)
            checked += 1
    assert checked


# Lo schema.


def test_sessions_written_by_hand_are_valid(small, on_gpu, growing):
    for found in (small, on_gpu, growing):
        schema.check(found)


def changed(found, where, value):
    """Una copia con un campo cambiato, o tolto se il valore è `...`."""
    result = copy.deepcopy(found)
    *path, last = where
    place = reduce(lambda inside, key: inside[key], path, result)
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return result


INFO = ("benchmarks", 0, "extra_info")
OURS = (*INFO, "contestants", "nostro")


@pytest.mark.parametrize(
    ("where", "value", "complaint"),
    [
        (("machine_info", "cpu"), ..., "machine_info.cpu: manca"),
        (("machine_info", "cores"), "2", "machine_info.cores: \"2\"; atteso un intero"),
        (("machine_info", "cores"), True, "machine_info.cores: true; atteso un intero"),
        (("machine_info", "packages"), {}, "machine_info.packages: {}; atteso un oggetto"),
        (("commit_info", "id"), "main", "commit_info.id: \"main\"; atteso un commit"),
        (("commit_info", "modified"), 0, "commit_info.modified: 0; atteso true o false"),
        (("datetime",), "ieri", "datetime: \"ieri\"; atteso una data"),
        (("datetime",), "2026-06-12", "datetime: \"2026-06-12\"; atteso una data"),
        (("benchmarks",), [], "benchmarks: []; attesa una lista non vuota"),
        (("benchmarks", 0), 7, "benchmarks[0]: 7; atteso un oggetto con group, name"),
        (("benchmarks", 0, "options"), {}, "benchmarks[0].options: campo in più"),
        (("benchmarks", 0, "stats", "data"), [1.0], "benchmarks[0].stats.data: campo in più"),
        ((*INFO, "device"), "tpu", "extra_info.device: \"tpu\"; atteso «cpu» o «cuda»"),
        ((*INFO, "device"), "cuda", "extra_info.device: «cuda», ma machine_info.gpu è null"),
        ((*INFO, "label"), " ", "extra_info.label: \" \"; atteso un testo non vuoto"),
        ((*INFO, "flops"), 0, "extra_info.flops: 0; atteso un intero maggiore di 0"),
        ((*INFO, "shape", "n"), -1, "extra_info.shape[n]: -1; atteso un intero, almeno 0"),
        ((*INFO, "shape", "n"), 2.5, "extra_info.shape[n]: 2.5; atteso un intero"),
        ((*INFO, "gemm_gflops"), float("nan"), "extra_info.gemm_gflops: NaN; atteso un numero"),
        ((*INFO, "gemm_gflops"), float("inf"), "extra_info.gemm_gflops: Infinity; atteso un"),
        ((*INFO, "intensity"), 10.0, "extra_info.intensity: 10.0; dagli altri campi viene 10.17"),
        ((*INFO, "proofs"), [{"error": float("nan")}], "extra_info.proofs[0].error: NaN; atteso"),
        ((*INFO, "hours"), {"nostro": 0}, "extra_info.hours[nostro]: 0; atteso un numero"),
        ((*INFO, "baseline"), "nessuno", "extra_info.baseline: \"nessuno\"; atteso uno dei"),
        ((*INFO, "contestants"), {}, "extra_info.contestants: {}; atteso un oggetto non vuoto"),
        ((*OURS, "median"), -1.0, "contestants[nostro].median: -1.0; atteso un numero finito"),
        ((*OURS, "median"), 0.0007, "contestants[nostro].median: 0.0007; dagli altri campi"),
        ((*OURS, "iqr"), -1e-9, "contestants[nostro].iqr: -1e-09; atteso un numero finito"),
        ((*OURS, "ratio"), 0.8, "contestants[nostro].ratio: 0.8; dagli altri campi viene 0.765"),
        ((*OURS, "gflops"), 9.9, "contestants[nostro].gflops: 9.9; dagli altri campi viene 0.74"),
        ((*OURS, "gemm_fraction"), 0.4, "contestants[nostro].gemm_fraction: 0.4; dagli altri"),
        ((*OURS, "extra_bytes"), None, "contestants[nostro].extra_bytes: null; atteso un numero"),
    ],
)  # fmt: skip
def test_a_broken_field_is_named_with_its_file(small, drop, where, value, complaint):
    path = drop(changed(small, where, value))
    with pytest.raises(schema.SchemaError) as error:
        schema.read(path)
    assert complaint in str(error.value)
    assert "/results/macchina/2026-06-12.json: non è un file di ris" in str(error.value)


@pytest.mark.parametrize(
    ("where", "value", "complaint"),
    [
        (("ceilings", "copy_gbs"), 0, "ceilings.copy_gbs: 0; atteso un numero finito"),
        (("ceilings", "gemm"), {}, "ceilings.gemm: {}; atteso un oggetto non vuoto"),
        (("ceilings",), ..., "ceilings: manca; i file dal 26/11/2026"),
        ((*INFO, "copy_gbs"), ..., "extra_info.copy_gbs: manca"),
        ((*INFO, "datasheet"), ..., "extra_info.datasheet: manca"),
        ((*INFO, "datasheet", "gbs"), "4000", "datasheet.gbs: \"4000\"; atteso un numero"),
        ((*OURS, "format"), ..., "contestants[nostro].format: manca"),
        ((*OURS, "gbs"), 1.0, "contestants[nostro].gbs: 1.0; dagli altri campi viene 1000.0"),
        ((*OURS, "copy_fraction"), 0.6, "[nostro].copy_fraction: 0.6; dagli altri campi viene 0.5"),
        ((*OURS, "datasheet_fraction"), 0.02, "[nostro].datasheet_fraction: 0.02; dagli altri"),
        ((*OURS, "datasheet_fraction"), None, "[nostro].datasheet_fraction: null; dagli altri"),
        ((*OURS, "gflops"), None, "[nostro].gemm_fraction: 0.025; dagli altri campi viene null"),
    ],
)  # fmt: skip
def test_a_session_with_ceilings_must_have_them_all(on_gpu, where, value, complaint):
    with pytest.raises(schema.SchemaError) as error:
        schema.check(changed(on_gpu, where, value))
    assert complaint in str(error.value)


def test_fractions_are_null_only_for_who_does_other_work(on_gpu):
    score = on_gpu["benchmarks"][0]["extra_info"]["contestants"]["diverso"]
    assert [score[name] for name in ("gflops", "gbs", "gemm_fraction", "copy_fraction")] == [
        None
    ] * 4
    schema.check(on_gpu)


def test_a_format_of_its_own_is_measured_against_the_roof_of_the_session(on_gpu):
    first = on_gpu["benchmarks"][0]["extra_info"]["contestants"]["nostro"]
    first |= {"format": "BF16", "gemm_fraction": 1e3 / 400e3, "datasheet_fraction": 1e3 / 1000e3}
    schema.check(on_gpu)
    first["format"] = "FP8"  # che questa sessione non ha misurato
    with pytest.raises(
        schema.SchemaError, match=r"gemm_fraction: 0\.0025; dagli altri campi viene null"
    ):
        schema.check(on_gpu)


def test_only_sessions_of_the_first_days_may_lack_the_ceilings(small):
    schema.check({**small, "datetime": "2026-11-25T23:59:59+00:00"})
    with pytest.raises(schema.SchemaError, match="ceilings: manca"):
        schema.check({**small, "datetime": "2026-11-26T00:00:00+00:00"})


def test_complaints_beyond_the_eighth_are_counted(small):
    with pytest.raises(schema.SchemaError) as error:
        schema.check({**small, "machine_info": {}, "commit_info": {}})
    assert str(error.value).count("\n") == 9
    assert str(error.value).endswith("e altri 2")


def test_a_folder_with_another_name_is_said(small, drop):
    path = drop(small, "mia-macchina", "oggi.json")
    assert list(schema.misplaced(path, schema.read(path))) == [
        "machine_info: la cartella si chiama «mia-macchina»; attesa «intel-xeon-2c-cpu»",
        "datetime: il file si chiama «oggi.json»; atteso «2026-06-12.json»",
    ]


# Un file in più.


@pytest.fixture
def from_there(monkeypatch, drop):
    """Il sito che legge i risultati dalla cartella di prova."""
    monkeypatch.setattr(
        measurements, "latest", lambda: latest(drop.folder) if drop.folder.exists() else []
    )
    monkeypatch.setattr(measurements, "declared", lambda: ["prova"])


ASKED = ("prova", "prova memoria", "prova roofline", "prova barre", "roofline")


@pytest.mark.usefixtures("from_there")
@pytest.mark.parametrize("asked", ASKED)
def test_a_file_from_another_machine_reaches_the_page(drop, small, on_gpu, asked):
    drop(small, "una")
    before = misura(asked)
    assert "Scheda Finta" not in before
    drop(on_gpu, "nuova")
    after = misura(asked)
    assert "Scheda Finta (driver 580.1)" in after
    assert after.index("Scheda Finta") < after.rindex("Macchina: Intel Xeon")
    assert after.count("<figure") > before.count("<figure")
    assert "Non misurato su GPU" in before
    assert "Non misurato" not in after


@pytest.mark.usefixtures("from_there")
@pytest.mark.parametrize("asked", [*ASKED, "traguardi"])
def test_a_broken_file_stops_the_page(drop, small, asked):
    drop(changed(small, (*OURS, "ratio"), 3.0), "guasta")
    with pytest.raises(SuperFencesException, match=r"results/guasta/2026-06-12\.json") as error:
        misura(asked)
    assert "contestants[nostro].ratio: 3.0" in str(error.value)


@pytest.mark.usefixtures("from_there")
def test_a_broken_file_stops_the_page_even_if_it_is_not_the_latest(drop, small):
    drop({**small, "benchmarks": []}, name="2026-06-11.json")
    drop(small)
    with pytest.raises(SuperFencesException, match=r"2026-06-11\.json"):
        misura("prova")


@pytest.mark.usefixtures("from_there")
def test_a_file_that_is_not_json_stops_the_page(drop, small):
    drop(small).write_text('{"benchmarks": [', encoding="utf-8")
    with pytest.raises(SuperFencesException, match="non è un file JSON"):
        misura("prova")


def test_the_latest_file_of_each_machine_is_shown_and_gpus_come_first(drop, small, on_gpu):
    for machine, day in (("a", "2026-06-12"), ("a", "2026-06-13"), ("b", "2026-06-11")):
        drop({**small, "datetime": f"{day}T10:00:00+00:00"}, machine, f"{day}.json")
    drop(on_gpu, "z")
    assert [found["datetime"][:10] for found in latest(drop.folder)] == [
        "2026-12-01",
        "2026-06-13",
        "2026-06-11",
    ]


# Le pagine.


def test_every_declared_group_has_a_place_on_a_page_of_measures():
    pages = [page.read_text(encoding="utf-8") for page in (ROOT / "docs").glob("misure*.md")]
    asked = {name for page in pages for name in re.findall(r"```\w+\n(\w+)", page)}
    assert set(declared()) <= asked


def test_pages_read_the_measures_and_never_take_them():
    """Nessuna pagina importa la gara, il cronometro o un benchmark."""
    pages = [
        page for shelf in ("docs", "paper_it", "gpu_notes") for page in (ROOT / shelf).rglob("*.md")
    ]
    timing = re.compile(
        r"^ *(from|import) benchmarks\.(bench_|ceilings|conftest|contest|publish|stopwatch)"
        r"|perf_counter|timeit",
        re.MULTILINE,
    )
    assert [page for page in pages if timing.search(page.read_text(encoding="utf-8"))] == []


def test_a_group_that_no_machine_measured_says_so(small):
    assert render("altro", "", []) == "<p>Non misurato, né su CPU né su GPU.</p>"
    assert render("altro", "", [small]) == render("altro", "", [])
    assert render("", "roofline", []) == render("altro", "", [])


@pytest.mark.parametrize(
    ("lowest", "highest", "places"),
    [
        (0.001, 1000, "0,001 0,01 0,1 1 10 100 1000"),
        (0.3, 60, "0,5 1 2 5 10 20 50"),
        (0.4, 4.2, "0,5 1 2"),
        (0.8, 1.3, "0,8 0,9 1 1,1 1,2 1,3"),
        (0.97, 1.02, "0,97 0,98 0,99 1 1,01 1,02"),
    ],
)
def test_a_logarithmic_axis_has_three_readable_ticks_also_when_the_numbers_are_close(
    lowest: float, highest: float, places: str
) -> None:
    axes = Figure().subplots()
    axes.plot([lowest, highest], [0, 1])
    axes.set_xscale("log")
    measurements.drawings.logarithmic(axes.xaxis)
    low, high = axes.get_xlim()
    ticks = [axes.xaxis.get_major_formatter()(x) for x in axes.get_xticks() if low <= x <= high]
    assert " ".join(ticks) == places
    assert not axes.xaxis.get_minorticklocs().size


def test_a_logarithmic_axis_writes_its_numbers_in_the_unit_it_is_given() -> None:
    axes = Figure().subplots()
    axes.plot([0, 1], [3e12, 4e13])
    axes.set_yscale("log")
    measurements.drawings.logarithmic(axes.yaxis, 1e12)
    low, high = axes.get_ylim()
    ticks = [axes.yaxis.get_major_formatter()(y) for y in axes.get_yticks() if low <= y <= high]
    assert ticks == ["5", "10", "20"]
