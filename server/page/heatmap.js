/** A matrix of layers and experts as a picture. */

const CELL = 24; // pixels, which the style sheet scales down
const GAP = 4;

/** `counts`: one row a layer, one column an expert. A cell is the darker the more of its layer's tokens it got. */
export function drawHeatmap(canvas, counts) {
  const columns = Math.max(1, ...counts.map((row) => row.length));
  canvas.width = columns * CELL - GAP;
  canvas.height = Math.max(1, counts.length) * CELL - GAP;
  const context = canvas.getContext("2d");
  context.fillStyle = getComputedStyle(canvas).color;
  counts.forEach((row, layer) => {
    const most = Math.max(...row, 1e-9);
    row.forEach((count, expert) => {
      context.globalAlpha = 0.07 + 0.93 * (count / most);
      context.beginPath();
      context.roundRect(expert * CELL, layer * CELL, CELL - GAP, CELL - GAP, 4);
      context.fill();
    });
  });
}
