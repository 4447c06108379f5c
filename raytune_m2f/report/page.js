"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const coarse = matchMedia("(pointer: coarse)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Plots: in the page's colours, drawn when they come into view.
  function themed(layout) {
    const ink = colour("--ink"), grid = colour("--grid");
    const found = {...layout, font: {...layout.font, color: ink, size: 12}, autosize: true};
    if (coarse.matches) found.dragmode = false;  // a finger scrolls the page
    for (const name of Object.keys(layout).filter((name) => /^[xy]axis/.test(name)).concat("xaxis", "yaxis")) {
      found[name] = {gridcolor: grid, zerolinecolor: grid, linecolor: grid, automargin: true, ...layout[name]};
    }
    found.hoverlabel = {bgcolor: colour("--card"), bordercolor: grid, font: {color: ink}};
    return found;
  }
  function draw(element) {
    const plot = JSON.parse(document.getElementById(`${element.id}-data`).textContent);
    Plotly.react(element, plot.data, themed(plot.layout), {responsive: true, displayModeBar: false});
    element.dataset.drawn = "yes";
  }
  const plots = [...document.querySelectorAll(".plot")];
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((entry) => entry.isIntersecting)) {
      near.unobserve(entry.target);
      draw(entry.target);
    }
  }, {rootMargin: "600px"});
  plots.forEach((element) => near.observe(element));
  dark.addEventListener("change", () => plots.filter((element) => element.dataset.drawn).forEach(draw));
  addEventListener("beforeprint", () => plots.forEach(draw));

  // The leaderboard, sorted by a column.
  for (const button of document.querySelectorAll(".board thead button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th"), body = button.closest("table").tBodies[0];
      const place = [...head.parentNode.children].indexOf(head);
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.children[place].dataset.sort;
      const compare = (a, b) => {
        if (a === "" || b === "") return (a === "") - (b === "");  // without a value: last
        const order = isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
        return up ? order : -order;
      };
      [...body.rows].sort((one, other) => compare(key(one), key(other))).forEach((row) => body.append(row));
    });
  }

  // A picture, large.
  const dialog = document.querySelector("dialog");
  if (dialog) {
    for (const link of document.querySelectorAll(".pictures a")) {
      link.addEventListener("click", (event) => {
        event.preventDefault();
        const image = link.querySelector("img");
        dialog.querySelector("img").src = image.src;
        dialog.querySelector("img").alt = image.alt;
        dialog.querySelector("p").textContent = image.alt;
        dialog.showModal();
      });
    }
    dialog.addEventListener("click", () => dialog.close());
  }

  // A study that runs: read the file again, unless the reader does not want it.
  const wish = document.querySelector(".reload input");
  if (wish) {
    const KEY = "raytune_m2f reload";
    const remember = (value) => { try { sessionStorage.setItem(KEY, value); } catch { /* of a file, in some browsers */ } };
    try { wish.checked = sessionStorage.getItem(KEY) !== "no"; } catch { /* the same */ }
    wish.addEventListener("change", () => remember(wish.checked ? "yes" : "no"));
    setInterval(() => { if (wish.checked) location.reload(); }, 1000 * Number(wish.dataset.seconds));
  }
})();
