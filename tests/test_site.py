"""Il sito costruito: completo, senza avvisi, leggero, leggibile da tutti, senza richieste esterne.

La prima metà legge i file; la seconda li apre con Chromium, chiaro e scuro, largo e stretto.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import griffe
import mkdocstrings_handlers.python
import pytest
from axe_playwright_python.base import AXE_SCRIPT
from bs4 import BeautifulSoup, Tag
from playwright.sync_api import Browser, Page, sync_playwright

from weave.docstrings import in_google_style
from weave.hooks import on_page_markdown
from weave.house import ROOT, Triple, page_url, triples

HOST = "https://sito/"
"""Un indirizzo di comodo per risolvere i collegamenti relativi delle pagine lette da file."""

WEIGHT_LIMIT = 54_000_000
"""Byte di tutto il sito: tema, caratteri e KaTeX ne prendono 3 milioni; una terna, con i sorgenti
e le interfacce, poco meno di un milione, e le terne sono quarantacinque."""

SAMPLE_SOURCES = ("sorgenti/attention/s3_2_attention/", "sorgenti/weave/fences/")
"""Le pagine dei sorgenti si somigliano tutte: nel browser se ne aprono due."""

CODE_SAMPLES = (*SAMPLE_SOURCES, "paper_it/s3_2_attention/")
"""Dove axe guarda anche ogni parola di codice e ogni parte di formula: altrove sono uguali."""

SAMPLE_REFERENCE = "riferimento/s3_2_attention/"
"""Le pagine di riferimento hanno tutte gli stessi colori: il contrasto si guarda in una."""

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

QUIET = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """La costruzione del sito, una volta sola, con `--strict`; l'ultimo argomento è la cartella."""
    folder = tmp_path_factory.mktemp("sito")
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def site(build: subprocess.CompletedProcess[str]) -> Path:
    """La cartella del sito costruito."""
    folder = Path(build.args[-1])
    if not (folder / "404.html").exists():
        pytest.fail("il sito non c'è: il motivo è nella prova della costruzione", pytrace=False)
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, BeautifulSoup]:
    """Ogni pagina del sito, per indirizzo dalla radice."""
    found = {}
    for path in sorted(site.rglob("*.html")):
        url = path.relative_to(site).as_posix().removesuffix("index.html")
        found[url] = BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")
    return found


# I file.


def test_build_is_strict_and_clean(build: subprocess.CompletedProcess[str]) -> None:
    assert [line for line in build.stdout.splitlines() if not line.startswith("INFO")] == []
    assert build.returncode == 0


@pytest.mark.parametrize("triple", triples(), ids=lambda triple: triple.stem)
def test_code_on_the_page_gives_the_module_back(
    pages: dict[str, BeautifulSoup], triple: Triple
) -> None:
    figures = pages[page_url(triple.page_path)].select("figure.codice")
    woven = "".join("\n" * int(figure["data-blank-lines"]) + code_of(figure) for figure in figures)
    assert woven.encode() == (ROOT / triple.module_path).read_bytes()


def code_of(figure: Tag) -> str:
    code = figure.select_one("pre > code")
    assert code is not None
    return code.get_text()


def test_pages_looked_at_for_all_the_others_exist(pages: dict[str, BeautifulSoup]) -> None:
    """Se una cambia nome, axe non smette in silenzio di guardare ciò che guarda soltanto lì."""
    assert {*CODE_SAMPLES, SAMPLE_REFERENCE} <= pages.keys()


def test_pages_ask_nothing_to_other_hosts(pages: dict[str, BeautifulSoup]) -> None:
    asked = [
        f"{url}: {address}"
        for url, page in pages.items()
        for element in page.select("link[href], script[src], img[src], iframe[src], source[src]")
        if is_external(address := element.get("src") or element["href"])
    ]
    styles = [
        f"{url}: {address}"
        for url, page in pages.items()
        for style in page.select("style, [style]")
        for address in external_urls(style.get_text() + style.get("style", ""))
    ]
    assert asked + styles == []


def test_stylesheets_ask_nothing_to_other_hosts(site: Path) -> None:
    sheets = list(site.rglob("*.css"))
    asked = [address for path in sheets for address in external_urls(path.read_text("utf-8"))]
    assert sheets
    assert asked == []


def is_external(address: str) -> bool:
    return bool(urlsplit(address).netloc)


def external_urls(css: str) -> list[str]:
    addresses = re.findall(r"(?:url\(|@import)\s*[\"']?([^\"')\s]+)", css)
    return [address for address in addresses if is_external(address)]


def test_every_internal_link_arrives(site: Path, pages: dict[str, BeautifulSoup]) -> None:
    anchors = {
        url: {tag.get("id") for tag in page.select("[id]")} | {""} for url, page in pages.items()
    }
    lost = []
    for url, page in pages.items():
        if url == "404.html":
            continue
        for link in page.select("a[href]"):
            target, anchor = urldefrag(urljoin(HOST + url, link["href"]))
            if not target.startswith(HOST):
                continue
            path = unquote(target.removeprefix(HOST))
            known = unquote(anchor) in anchors[path] if path in anchors else (site / path).is_file()
            if not known:
                lost.append(f"{url}: {link['href']}")
    assert lost == []


def test_site_stays_light(site: Path) -> None:
    weight = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    assert weight < WEIGHT_LIMIT


def test_vendored_assets_keep_their_licences() -> None:
    vendored = [path for path in (ROOT / "docs/assets/vendor").iterdir() if path.is_dir()]
    assert vendored
    assert [path.name for path in vendored if not (path / "LICENSE.txt").exists()] == []


# Le pagine di riferimento.


def test_every_section_module_has_a_reference_page(pages: dict[str, BeautifulSoup]) -> None:
    folders = {"attention": "riferimento", "gpu_notes": "riferimento/gpu_notes"}
    wanted = [f"{folders[triple.package]}/{triple.stem}/" for triple in triples()]
    assert [url for url in wanted if url not in pages] == []


def test_reference_links_stay_on_the_site(pages: dict[str, BeautifulSoup]) -> None:
    links = [
        link["href"]
        for url, page in pages.items()
        if url.startswith("riferimento/")
        for link in page.select("article a[href]")
    ]
    assert links
    assert [link for link in links if is_external(link)] == []


def test_every_word_of_mkdocstrings_is_translated() -> None:
    package = Path(mkdocstrings_handlers.python.__file__).parent
    words = [
        set(re.findall(r'^ *"([^"]+)" *:', path.read_text("utf-8"), flags=re.MULTILINE))
        for path in (
            package / "templates/material/_base/languages/en.html.jinja",
            ROOT / "docs/templates/python/material/languages/it.html.jinja",
        )
    ]
    assert len(words[0]) > 40
    assert words[0] == words[1]


def test_italian_docstring_sections_reach_griffe() -> None:
    text = (
        "Somma.\n\nArgomenti:\n    a, b: due numeri,\n        interi.\n    c: un terzo.\n\n"
        "Restituisce:\n    La somma.\n\nSolleva:\n    TypeError, ValueError: mai."
    )
    sections = griffe.Docstring(in_google_style(text)).parse("google", warnings=False)
    _, arguments, returns, raises = sections
    assert [(item.name, item.description) for item in arguments.value] == [
        ("a", "due numeri,\ninteri."),
        ("b", "due numeri,\ninteri."),
        ("c", "un terzo."),
    ]
    assert returns.value[0].description == "La somma."
    assert [(item.annotation, item.description) for item in raises.value] == [
        ("TypeError", "mai."),
        ("ValueError", "mai."),
    ]


def test_prose_of_a_docstring_is_left_alone() -> None:
    text = "Titolo.\n\nUn elenco: a, b: resta.\n    x, y resta."
    assert in_google_style(text) == text


@pytest.mark.parametrize(
    ("repository", "edit_url"),
    [("https://esempio.it/a", "https://esempio.it/a/edit/main/paper_it/index.md"), ("", None)],
)
def test_edit_link_needs_a_public_repository(repository: str, edit_url: str | None) -> None:
    page = SimpleNamespace(
        edit_url=None, file=SimpleNamespace(abs_src_path=str(ROOT / "paper_it" / "index.md"))
    )
    on_page_markdown("", page=page, config=SimpleNamespace(extra={"repository": repository}))
    assert page.edit_url == edit_url


# Il browser.


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, se c'è; nell'integrazione continua deve esserci."""
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if program is None:
        reason = f"nessun Chromium fra {', '.join(CHROMIUM)}: le prove nel browser non si fanno"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(QUIET))
        yield browser
        browser.close()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Il sito servito da una porta libera di questa macchina."""
    handler = functools.partial(QuietHandler, directory=str(site))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@dataclass(frozen=True)
class Visit:
    """Ciò che il browser ha visto su una pagina."""

    url: str
    schemes: list[str]
    complaints: list[str]
    requests: list[str]
    formulas: list[str]
    overflow: int
    violations: list[str]


WIDE = 1280

NARROW = 390


@pytest.fixture(scope="module", params=[WIDE, NARROW], ids=["largo", "stretto"])
def visits(
    browser: Browser, address: str, pages: dict[str, BeautifulSoup], request: pytest.FixtureRequest
) -> list[Visit]:
    """Le pagine scritte, e due dei sorgenti; quelle di riferimento, tutte simili, solo larghe.

    Larghe si aprono in chiaro, e poi si passano allo scuro; strette si aprono in scuro.
    """
    skipped = ("sorgenti/",) if request.param == WIDE else ("sorgenti/", "riferimento/")
    urls = [url for url in pages if not url.startswith(skipped) or url in SAMPLE_SOURCES]
    scheme = "light" if request.param == WIDE else "dark"
    with browser.new_context(
        viewport={"width": request.param, "height": 900}, color_scheme=scheme
    ) as context:
        page = context.new_page()
        return [visit(page, address, url, scheme) for url in urls]


def visit(page: Page, address: str, url: str, scheme: str) -> Visit:
    """Una pagina, con le regole di axe; quella del contrasto quando è larga, nei due aspetti."""
    complaints: list[str] = []
    requests: list[str] = []
    listeners = {
        "console": lambda note: complaints.append(note.text) if note.type == "error" else None,
        "pageerror": lambda error: complaints.append(str(error)),
        "request": lambda request: requests.append(request.url),
    }
    for event, listener in listeners.items():
        page.on(event, listener)
    page.emulate_media(color_scheme=scheme)
    page.goto(address + url)
    page.evaluate("document.fonts.ready.then(() => null)")
    schemes = [page.evaluate(SCHEME)]
    formulas = unreadable_formulas(page)
    overflow = page.evaluate(
        "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    )
    if url not in CODE_SAMPLES:
        page.evaluate(SIMPLIFY)
    wide = page.viewport_size["width"] == WIDE
    coloured = wide and (not url.startswith("riferimento/") or url == SAMPLE_REFERENCE)
    violations = axe(page, f"{{rules: {{'color-contrast': {{enabled: {str(coloured).lower()}}}}}}}")
    if wide:
        page.emulate_media(color_scheme="dark")
        page.wait_for_function(f"{SCHEME} === 'slate'")
        schemes.append(page.evaluate(SCHEME))
    if coloured:
        violations += axe(page, "{runOnly: ['color-contrast']}")
    for event, listener in listeners.items():
        page.remove_listener(event, listener)
    outside = [request for request in requests if not request.startswith(address)]
    return Visit(url, schemes, complaints, outside, formulas, overflow, violations)


SCHEME = "document.body.dataset.mdColorScheme"

SIMPLIFY = (
    "document.querySelectorAll('pre > code').forEach(it => it.textContent += '');"
    "document.querySelectorAll('.katex-html').forEach(it => it.replaceChildren())"
)
"""Codice e formule sono migliaia di elementi uguali: per axe se ne lascia il solo contenitore."""


def unreadable_formulas(page: Page) -> list[str]:
    """Le formule che KaTeX non ha composto, o che ha composto come errore."""
    return page.evaluate(
        "[...document.querySelectorAll('.arithmatex')]"
        ".filter(it => !it.querySelector('.katex') || it.querySelector('.katex-error'))"
        ".map(it => it.textContent)"
    )


def axe(page: Page, options: str = "{}") -> list[str]:
    """Le violazioni che axe-core trova, con l'elemento che le commette."""
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate(f"axe.run(document, {{resultTypes: ['violations'], ...{options}}})")
    return [
        f"{rule['id']}: {node['html'][:200]}"
        for rule in found["violations"]
        for node in rule["nodes"]
    ]


def test_colours_follow_the_system(visits: list[Visit]) -> None:
    """In chiaro, in scuro, e passando dall'uno all'altro senza riaprire la pagina."""
    assert {tuple(seen.schemes) for seen in visits} <= {("default", "slate"), ("slate",)}


def test_no_page_complains(visits: list[Visit]) -> None:
    assert {seen.url: seen.complaints for seen in visits if seen.complaints} == {}


def test_no_request_leaves_the_site(visits: list[Visit]) -> None:
    assert {seen.url: seen.requests for seen in visits if seen.requests} == {}


def test_every_formula_is_readable(visits: list[Visit]) -> None:
    assert {seen.url: seen.formulas for seen in visits if seen.formulas} == {}


def test_no_page_is_wider_than_its_window(visits: list[Visit]) -> None:
    assert {seen.url: seen.overflow for seen in visits if seen.overflow > 0} == {}


def test_axe_finds_no_violation(visits: list[Visit]) -> None:
    assert {seen.url: seen.violations for seen in visits if seen.violations} == {}


def test_search_finds_a_word_of_the_glossary(browser: Browser, address: str) -> None:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.goto(address)
        page.get_by_role("textbox", name="Cerca").click()
        page.keyboard.type("interrogazione")
        result = page.locator(".md-search-result__link").first
        result.wait_for()
        assert "glossario" in result.get_attribute("href")
        assert axe(page) == []
