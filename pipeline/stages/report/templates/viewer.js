// Scrolls through a case: planes of the image with the outlines of truth and prediction. Voxels are in RAS order, x
// outermost; planes lie as in the pictures: the patient's right at the left, the front or the head at the top.
const PLANES = [{ name: "Axial", axis: 2 }, { name: "Coronal", axis: 1 }, { name: "Sagittal", axis: 0 }];

const inWords = (value) => String(Number(value.toPrecision(3)));

async function readVolume(element) {
  const { data, ...volume } = JSON.parse(element.textContent);
  const packed = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const unpacking = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(unpacking).arrayBuffer());
  const count = volume.shape[0] * volume.shape[1] * volume.shape[2];
  const part = (number) => bytes.subarray(number * count, (number + 1) * count);
  return { ...volume, image: Array.from({ length: volume.channels }, (_, channel) => part(channel)),
           truth: part(volume.channels), prediction: part(volume.channels + 1) };
}

// A plane of a volume: its size in voxels and millimetres, and which voxel lies in a column and row.
function planeOf(volume, axis, centre) {
  const [across, up] = [0, 1, 2].filter((other) => other !== axis);
  const steps = [volume.shape[1] * volume.shape[2], volume.shape[2], 1];
  const [columns, rows] = [volume.shape[across], volume.shape[up]];
  const first = centre[axis] * steps[axis];
  return { across, up, columns, rows, width: columns * volume.spacing_mm[across], height: rows * volume.spacing_mm[up],
           at: (column, row) => first + (columns - 1 - column) * steps[across] + (rows - 1 - row) * steps[up] };
}

function drawImage(volume, plane, [low, high]) {
  const picture = new ImageData(plane.columns, plane.rows);
  const toIntensity = (volume.brightest - volume.darkest) / 255;
  const grey = Uint8ClampedArray.from({ length: 256 },
    (_, level) => 255 * (volume.darkest + level * toIntensity - low) / Math.max(high - low, 1e-6));
  for (let row = 0, place = 0; row < plane.rows; row++) {
    for (let column = 0; column < plane.columns; column++, place += 4) {
      const voxel = plane.at(column, row);
      for (let channel = 0; channel < 3; channel++) {
        picture.data[place + channel] = grey[(volume.image[channel] ?? volume.image[0])[voxel]];
      }
      picture.data[place + 3] = 255;
    }
  }
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [plane.columns, plane.rows];
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return canvas;
}

// Returns the edges between voxels of different labels: of the truth alone, of the prediction alone, and of both.
function outlinesOf(volume, plane, shown) {
  const paths = { truth: new Path2D(), prediction: new Path2D(), both: new Path2D() };
  const label = (map, column, row) =>
    column < 0 || row < 0 || column >= plane.columns || row >= plane.rows ? 0 : map[plane.at(column, row)];
  const edge = (column, row, nextColumn, nextRow, from, to) => {
    const differs = (map) => label(map, column, row) !== label(map, nextColumn, nextRow);
    const [inTruth, inPrediction] = [shown.truth && differs(volume.truth), shown.prediction && differs(volume.prediction)];
    if (!inTruth && !inPrediction) return;
    const path = paths[inTruth && inPrediction ? "both" : inTruth ? "truth" : "prediction"];
    path.moveTo(...from);
    path.lineTo(...to);
  };
  for (let row = 0; row <= plane.rows; row++) {
    for (let column = 0; column <= plane.columns; column++) {
      edge(column, row, column - 1, row, [column, row], [column, row + 1]);
      edge(column, row, column, row - 1, [column, row], [column + 1, row]);
    }
  }
  return paths;
}

class Viewer {
  constructor(root) {
    this.root = root;
    this.find = (selector) => root.querySelector(selector);
    this.views = [...root.querySelectorAll(".plane")].map((figure) => ({
      ...PLANES.find((plane) => plane.name === figure.dataset.plane), figure,
      canvas: figure.querySelector("canvas"), slider: figure.querySelector("input"), count: figure.querySelector("output"),
    }));
    this.colours = JSON.parse(root.dataset.colours);
    for (const view of this.views) this.listen(view);
    for (const box of root.querySelectorAll("input[type=checkbox]")) box.addEventListener("change", () => this.draw());
    for (const name of [".level", ".width"]) this.find(name).addEventListener("input", () => this.draw());
    this.find(".reset").addEventListener("click", () => { this.resetWindow(); this.draw(); });
    this.find("select").addEventListener("change", () => this.show(this.find("select").value));
    new ResizeObserver(() => this.draw()).observe(root);
  }

  listen(view) {
    view.slider.addEventListener("input", () => this.go(view.axis, Number(view.slider.value) - 1));
    view.canvas.addEventListener("wheel", (event) => {
      // At the last slice the wheel is the page's again.
      const step = event.ctrlKey ? 0 : -Math.sign(event.deltaY);
      if (step && this.go(view.axis, this.centre[view.axis] + step)) event.preventDefault();
    }, { passive: false });
    const point = (event) => {
      const { left, top } = view.canvas.getBoundingClientRect(), { plane, x, y, scale } = view.drawn;
      const ratio = view.canvas.width / view.canvas.clientWidth;
      const column = Math.floor(((event.clientX - left) * ratio - x) / (scale * this.volume.spacing_mm[plane.across]));
      const row = Math.floor(((event.clientY - top) * ratio - y) / (scale * this.volume.spacing_mm[plane.up]));
      this.go(plane.across, plane.columns - 1 - column);
      this.go(plane.up, plane.rows - 1 - row);
    };
    view.canvas.addEventListener("pointerdown", (event) => {
      view.slider.focus({ preventScroll: true });
      view.canvas.setPointerCapture(event.pointerId);
      point(event);
      event.preventDefault();
    });
    view.canvas.addEventListener("pointermove", (event) => { if (event.buttons & 1) point(event); });
  }

  async show(place) {
    this.volume = await readVolume(this.root.querySelectorAll("script.volume")[place]);
    this.centre = [...this.volume.start];
    this.resetWindow();
    for (const { axis, slider } of this.views) slider.max = this.volume.shape[axis];
    this.root.hidden = false;
    this.draw();
  }

  // Returns whether the planes moved.
  go(axis, place) {
    const before = this.centre[axis];
    this.centre[axis] = Math.min(Math.max(place, 0), this.volume.shape[axis] - 1);
    if (this.centre[axis] === before) return false;
    this.draw();
    return true;
  }

  resetWindow() {
    const [low, high] = this.volume.window, span = this.volume.brightest - this.volume.darkest;
    const [level, width] = [this.find(".level"), this.find(".width")];
    const step = span / 200;
    Object.assign(level, { min: this.volume.darkest, max: this.volume.brightest, step, value: (low + high) / 2 });
    Object.assign(width, { min: step, max: 2 * span, step, value: high - low });
  }

  draw() {
    if (!this.volume || this.isWaiting) return;
    this.isWaiting = true;
    requestAnimationFrame(() => {
      this.isWaiting = false;
      const [level, width] = [this.find(".level"), this.find(".width")].map((input) => Number(input.value));
      this.find(".level-shown").textContent = inWords(level);
      this.find(".width-shown").textContent = inWords(width);
      const planes = this.views.map((view) => planeOf(this.volume, view.axis, this.centre));
      const ratio = Math.min(devicePixelRatio, 2);
      const boxes = this.views.map(({ canvas }) => [canvas.clientWidth * ratio, canvas.clientHeight * ratio]);
      // One millimetre is as long in every plane.
      const scale = Math.min(...planes.map((plane, i) => Math.min(boxes[i][0] / plane.width, boxes[i][1] / plane.height)));
      const window = [level - width / 2, level + width / 2];
      this.views.forEach((view, i) => this.drawPlane(view, planes[i], boxes[i], scale, window));
      this.tell();
    });
  }

  drawPlane(view, plane, [width, height], scale, window) {
    [view.canvas.width, view.canvas.height] = [width, height];
    const context = view.canvas.getContext("2d"), { spacing_mm } = this.volume;
    const [x, y] = [(view.canvas.width - plane.width * scale) / 2, (view.canvas.height - plane.height * scale) / 2];
    view.drawn = { plane, x, y, scale };
    context.imageSmoothingQuality = "high";
    context.drawImage(drawImage(this.volume, plane, window), x, y, plane.width * scale, plane.height * scale);
    const shown = { truth: this.find(".show-truth").checked, prediction: this.find(".show-prediction").checked };
    const toCanvas = new DOMMatrix([spacing_mm[plane.across] * scale, 0, 0, spacing_mm[plane.up] * scale, x, y]);
    const line = 1.75 * Math.min(devicePixelRatio, 2);
    for (const [name, path] of Object.entries(outlinesOf(this.volume, plane, shown))) {
      const moved = new Path2D();
      moved.addPath(path, toCanvas);
      Object.assign(context, { strokeStyle: `rgb(${this.colours[name]})`, lineWidth: line, lineCap: "round" });
      context.stroke(moved);
    }
    if (this.find(".show-cross").checked && this.views.length > 1) this.drawCross(context, view, plane, scale, [x, y]);
    const slice = this.centre[view.axis] + 1, slices = this.volume.shape[view.axis];
    view.slider.value = slice;
    view.slider.setAttribute("aria-valuetext", `slice ${slice} of ${slices}`);
    view.count.textContent = `${slice} of ${slices}`;
  }

  drawCross(context, view, plane, scale, [x, y]) {
    const { spacing_mm } = this.volume;
    const column = x + (plane.columns - this.centre[plane.across] - 0.5) * spacing_mm[plane.across] * scale;
    const row = y + (plane.rows - this.centre[plane.up] - 0.5) * spacing_mm[plane.up] * scale;
    const gap = 8 * Math.min(devicePixelRatio, 2), { width, height } = view.canvas;
    context.beginPath();
    const line = (from, to) => { context.moveTo(...from); context.lineTo(...to); };
    for (const [from, to] of [[0, column - gap], [column + gap, width]]) line([from, row], [to, row]);
    for (const [from, to] of [[0, row - gap], [row + gap, height]]) line([column, from], [column, to]);
    Object.assign(context, { strokeStyle: "rgba(255, 255, 255, .35)", lineWidth: 1 });
    context.stroke();
  }

  // Says what lies where the planes meet.
  tell() {
    const { shape, labels, image, truth, prediction, darkest, brightest } = this.volume;
    const voxel = (this.centre[0] * shape[1] + this.centre[1]) * shape[2] + this.centre[2];
    const values = image.map((channel) => inWords(darkest + channel[voxel] * (brightest - darkest) / 255));
    const [inTruth, predicted] = [labels[truth[voxel]], labels[prediction[voxel]]];
    this.find(".here").textContent = `${values.join(", ")} · truth ${inTruth} · predicted ${predicted}`;
  }
}

for (const root of document.querySelectorAll(".viewer")) {
  if ("DecompressionStream" in window) new Viewer(root).show(0);
}
