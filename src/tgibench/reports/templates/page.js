"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const still = { responsive: true, displayModeBar: false, scrollZoom: false, doubleClick: false };

  // the page's own colours, so that a plot changes with it
  const themed = (layout, narrow) => {
    const style = getComputedStyle(document.documentElement);
    const [ink, soft, line, card] = ["--ink", "--soft", "--line", "--card"].map((name) => style.getPropertyValue(name).trim());
    const axes = Object.fromEntries(
      Object.entries({ xaxis: {}, yaxis: {}, ...layout })
        .filter(([name]) => /^[xy]axis/.test(name))
        .map(([name, axis]) => [name, { gridcolor: line, linecolor: soft, zerolinecolor: line, automargin: true, fixedrange: true, ...axis }]),
    );
    return {
      autosize: true,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: narrow ? 11 : 12.5, color: ink },
      margin: { l: 8, r: 12, t: 8, b: 8 },
      hoverlabel: { bgcolor: card, bordercolor: soft, font: { color: ink } },
      legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom", itemclick: "toggle" },
      dragmode: false,
      ...layout,
      ...axes,
    };
  };

  const draw = (plot) => {
    const choices = figures[plot.dataset.figure];
    const chosen = choices[Number(plot.dataset.choice || 0)];
    return Plotly.react(plot, chosen.data, themed(chosen.layout, plot.clientWidth < 560), still);
  };

  const fill = (body, rows) => {
    body.replaceChildren(...rows.map((row) => {
      const line = document.createElement("tr");
      row.forEach((text, place) => {
        const cell = document.createElement(place ? "td" : "th");
        if (!place) cell.scope = "row";
        cell.className = "figure";
        cell.textContent = text;
        line.append(cell);
      });
      return line;
    }));
  };

  const plots = [...document.querySelectorAll(".plot")];
  const drawAll = () => Promise.all(plots.map(draw));
  for (const select of document.querySelectorAll("select[data-chooses]")) {
    const mine = plots.filter((plot) => select.dataset.chooses.split(" ").includes(plot.dataset.figure));
    const choose = () => {
      for (const plot of mine) plot.dataset.choice = select.value;
      for (const body of document.querySelectorAll(`tbody[data-follows="${select.id}"]`)) {
        fill(body, figures[mine[0].dataset.figure][Number(select.value)].table);
      }
    };
    select.addEventListener("change", () => { choose(); mine.forEach(draw); });
    choose();
  }
  dark.addEventListener("change", drawAll);
  drawAll().then(() => { document.documentElement.dataset.drawn = "yes"; });
})();
