// Le formule, e i nomi che il tema non dà a ciò che si tocca o si scorre.

function renderFormulas() {
  for (const element of document.querySelectorAll(".arithmatex")) {
    const source = element.textContent.trim();
    katex.render(source.slice(2, -2), element, {
      displayMode: source.startsWith("\\["),
      throwOnError: false,
    });
  }
}

// Ciò che scorre in orizzontale si deve poter scorrere anche dalla tastiera.
function openScrollablesToKeyboard() {
  const selector = "pre > code, pre, .md-typeset__scrollwrap, div.arithmatex, figure.disegno";
  for (const element of document.querySelectorAll(selector)) {
    const scrolls =
      element.scrollWidth > element.clientWidth && getComputedStyle(element).overflowX !== "visible";
    if (scrolls) element.tabIndex = 0;
    else element.removeAttribute("tabindex");
  }
}

function name(selector, label) {
  for (const element of document.querySelectorAll(selector)) {
    element.setAttribute("aria-label", typeof label === "function" ? label(element) : label);
  }
}

function nameControls() {
  name(".md-search", "Ricerca nel sito");
  name(".headerlink", (link) => `Collegamento a «${link.parentElement.firstChild.textContent.trim()}»`);
  for (const bar of document.querySelectorAll("nav.md-code__nav")) bar.role = "none";
}

function tidy() {
  nameControls();
  openScrollablesToKeyboard();
}

renderFormulas();
tidy();
document.fonts.ready.then(tidy);
addEventListener("resize", tidy);
// Il tema aggiunge da sé i pulsanti del codice e le cornici delle tabelle, anche più tardi.
new MutationObserver(tidy).observe(document.querySelector("article"), {
  childList: true,
  subtree: true,
});
