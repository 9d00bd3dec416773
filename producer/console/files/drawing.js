// Small lines in SVG, drawn by time, with a gap where nothing is known.

const SVG = "http://www.w3.org/2000/svg";
const WINDOW_S = 120;
const GAP_S = 6;
const WIDTH = 240;
const HEIGHT = 60;

// Draw lines of points into an svg: each is {of: point => number or null, name, area}. They share one
// scale from zero, so that one can be held against the other.
export function draw(svg, points, lines) {
  const until = points.length ? points[points.length - 1].at : 0;
  const known = points.flatMap((point) => lines.map((line) => line.of(point) ?? 0));
  const top = Math.max(1, ...known) * 1.12;
  const x = (at) => (WIDTH * (at - until + WINDOW_S)) / WINDOW_S;
  const y = (value) => HEIGHT - 1 - ((HEIGHT - 3) * value) / top;
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  for (const line of lines) {
    const runs = runsOf(points, line.of);
    const spell = (run) => run.map((p) => `${x(p.at).toFixed(1)} ${y(line.of(p)).toFixed(1)}`).join("L");
    if (line.area) {
      const under = (run) => `M${x(run[0].at).toFixed(1)} ${HEIGHT}L${spell(run)}V${HEIGHT}Z`;
      path(svg, `area ${line.name}`).setAttribute("d", runs.map(under).join(""));
    }
    path(svg, line.name).setAttribute("d", runs.map((run) => `M${spell(run)}`).join(""));
  }
}

function runsOf(points, of) {
  const runs = [];
  let last = -Infinity;
  for (const point of points) {
    if (of(point) === null || of(point) === undefined) continue;
    if (point.at - last > GAP_S) runs.push([]);
    runs[runs.length - 1].push(point);
    last = point.at;
  }
  return runs.filter((run) => run.length > 1);
}

function path(svg, name) {
  for (const child of svg.children) if (child.getAttribute("class") === name) return child;
  const made = document.createElementNS(SVG, "path");
  made.setAttribute("class", name);
  svg.append(made);
  return made;
}
