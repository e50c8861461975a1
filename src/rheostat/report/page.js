"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const config = { responsive: true, displayModeBar: false };
  // A finger that scrolls the page must not zoom a figure.
  const dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
  const schemes = [matchMedia("(prefers-color-scheme: dark)"), matchMedia("print")];

  // The page's colours, as they are now: light, dark or print.
  const template = () => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = {
      gridcolor: colour("--rule"),
      linecolor: colour("--rule"),
      zerolinecolor: colour("--rule"),
      tickcolor: colour("--rule"),
      spikecolor: colour("--soft"),
      spikethickness: 1,
      title: { font: { size: 13 } },
    };
    return {
      layout: {
        paper_bgcolor: "rgba(0,0,0,0)",
        plot_bgcolor: "rgba(0,0,0,0)",
        font: { color: colour("--ink"), size: 12, family: getComputedStyle(document.body).fontFamily },
        hoverlabel: { bgcolor: colour("--page"), bordercolor: colour("--rule"), font: { color: colour("--ink") } },
        legend: { bgcolor: "rgba(0,0,0,0)" },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: colour("--ink") },
        xaxis: axis,
        yaxis: axis,
      },
    };
  };

  // Paper is narrower than a screen, and printing does not wait for a figure to find its size.
  const draw = (width) => {
    for (const { name, traces, layout } of structuredClone(figures)) {
      const height = document.getElementById(name).clientHeight;
      const size = width ? { width, height, autosize: false } : { autosize: true };
      Plotly.react(name, traces, { ...layout, ...size, dragmode, uirevision: "kept", template: template() }, config);
    }
  };

  draw();
  for (const scheme of schemes) {
    scheme.addEventListener("change", () => draw(matchMedia("print").matches ? 680 : undefined));
  }
})();
