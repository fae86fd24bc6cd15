"""L'unico aggancio a MkDocs: monta le pagine accanto a docs/ e mostra i sorgenti."""

import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from weave.fragments import FragmentError, split_file
from weave.house import ROOT, SHELVES, sources

SOURCE_PAGE = "---\ntitle: {path}\nsearch:\n  exclude: true\n---\n\n# `{path}`\n\n{blocks}"


def on_pre_build(config: MkDocsConfig) -> None:
    """Dimentica i moduli importati: a ogni ricostruzione le pagine eseguono il codice di ora."""
    for name in [name for name in sys.modules if name.partition(".")[0] in SHELVES.values()]:
        del sys.modules[name]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Monta paper_it/ e gpu_notes/, e una pagina per ogni sorgente."""
    for shelf in SHELVES:
        for path in sorted((ROOT / shelf).rglob("*.md")):
            name = path.relative_to(ROOT).as_posix()
            files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    for path in sources():
        page = SOURCE_PAGE.format(path=path.as_posix(), blocks="\n".join(_blocks(path)))
        files.append(File.generated(config, f"sorgenti/{path.with_suffix('.md')}", content=page))
    return files


def _blocks(path: Path) -> list[str]:
    """Un titolo e un riquadro per ogni definizione; il file intero, se non si divide."""
    try:
        fragments = split_file(ROOT / path)
    except FragmentError:
        return [f"```sorgente\n{path}\n```\n"]
    return [
        f"## `{fragment.name or 'testa del modulo'}` {{ #{fragment.anchor} }}\n\n"
        f"```sorgente\n{path}:{fragment.name}\n```\n"
        for fragment in fragments
    ]


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> None:
    """Con un deposito pubblico, ogni pagina scritta a mano ha il suo «modifica»."""
    repository = config.extra["repository"]
    if repository and page.file.abs_src_path:
        path = page.file.abs_src_path.removeprefix(f"{ROOT}/")
        page.edit_url = f"{repository}/edit/main/{path}"


def on_post_build(config: MkDocsConfig) -> None:
    """Toglie ciò che il tema porta e qui non serve a nessuno: le mappe dei suoi sorgenti compressi,
    e chi divide in parole le lingue che non hanno spazi."""
    scripts = Path(config.site_dir, "assets", "javascripts")
    unused = [*Path(config.site_dir, "assets").rglob("*.map"), *scripts.glob("lunr/[tw]*.js")]
    for path in unused:
        path.unlink()
