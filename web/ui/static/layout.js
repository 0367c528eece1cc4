// Layered layout of a directed acyclic graph, from left to right (after Sugiyama): layers by longest path, few crossings by
// sweeps of barycenters, then heights close to those of the neighbours.

// layout places nodes 0..n-1; inputs[k] are the producers of k, in topological order. It returns {x, y} of each node's upper
// left corner, the points of each edge, and the size of all.
export function layout(inputs, { width, height, gapX, gapY }) {
  const n = inputs.length;
  const { layers, at, edges } = divide(inputs);
  order(layers, at);
  const y = heights(layers, at, (v) => (v < n ? height + gapY : gapY * 1.5));
  const left = (v) => at[v].layer * (width + gapX);
  const middle = (v) => y[v];
  let bottom = 0;
  const low = Math.min(...y.map((v, k) => v - (k < n ? height / 2 : 0)), 0);
  const nodes = inputs.map((_, k) => {
    bottom = Math.max(bottom, y[k] + height / 2 - low);
    return { x: left(k), y: y[k] - height / 2 - low };
  });
  const lines = edges.map(({ from, to, path }) => {
    const points = [[left(from) + width, middle(from) - low]];
    for (const v of path) {
      bottom = Math.max(bottom, middle(v) - low);
      points.push([left(v), middle(v) - low], [left(v) + width, middle(v) - low]);
    }
    points.push([left(to), middle(to) - low]);
    return { from, to, points };
  });
  return { nodes, edges: lines, width: layers.length * (width + gapX) - gapX, height: bottom };
}

// divide puts nodes into layers; edges over several layers get a virtual node in each between.
function divide(inputs) {
  const n = inputs.length, depth = new Array(n).fill(0), consumers = inputs.map(() => []);
  for (let k = 0; k < n; k++) for (const p of inputs[k]) { depth[k] = Math.max(depth[k], depth[p] + 1); consumers[p].push(k); }
  for (let k = n - 1; k >= 0; k--) if (!inputs[k].length && consumers[k].length) depth[k] = Math.min(...consumers[k].map((c) => depth[c])) - 1;
  const layers = Array.from({ length: Math.max(0, ...depth) + 1 }, () => []), at = [], edges = [];
  const put = (v, layer) => { at[v] = { layer, up: [], down: [], pos: layers[layer].length }; layers[layer].push(v); };
  for (let k = 0; k < n; k++) put(k, depth[k]);
  let next = n;
  for (let to = 0; to < n; to++) for (const from of new Set(inputs[to])) {
    const path = [];
    let last = from;
    for (let l = depth[from] + 1; l < depth[to]; l++) { put(next, l); join(last, next); path.push((last = next++)); }
    join(last, to);
    edges.push({ from, to, path });
  }
  function join(a, b) { at[a].down.push(b); at[b].up.push(a); }
  return { layers, at, edges };
}

const place = (layers, at) => layers.forEach((l) => l.forEach((v, k) => (at[v].pos = k)));

// order sweeps over the layers, right and left, and keeps the order with the fewest crossings.
function order(layers, at) {
  let best = layers.map((l) => [...l]), fewest = crossings(layers, at);
  for (let round = 0; round < 12 && fewest > 0; round++) {
    const right = round % 2 === 0;
    for (let k = 1; k < layers.length; k++) {
      const l = layers[right ? k : layers.length - 1 - k];
      const weight = new Map(l.map((v) => {
        const near = right ? at[v].up : at[v].down;
        return [v, near.length ? near.reduce((s, u) => s + at[u].pos, 0) / near.length : at[v].pos];
      }));
      l.sort((a, b) => weight.get(a) - weight.get(b) || at[a].pos - at[b].pos);
      l.forEach((v, p) => (at[v].pos = p));
    }
    const c = crossings(layers, at);
    if (c < fewest) { fewest = c; best = layers.map((l) => [...l]); }
  }
  best.forEach((l, k) => (layers[k] = l));
  place(layers, at);
}

// crossings counts inversions, layer by layer.
function crossings(layers, at) {
  let sum = 0;
  for (const l of layers) {
    const ends = [];
    for (const v of l) for (const p of at[v].down.map((d) => at[d].pos).sort((a, b) => a - b)) {
      for (let k = ends.length - 1; k >= 0 && ends[k] > p; k--) sum++;
      let k = ends.length;
      while (k > 0 && ends[k - 1] > p) k--;
      ends.splice(k, 0, p);
    }
  }
  return sum;
}

// heights gives each node its middle: as near to the mean of its neighbours as the order and the room it needs allow.
function heights(layers, at, room) {
  const y = [];
  for (const l of layers) { let at0 = 0; for (const v of l) { y[v] = at0 + room(v) / 2; at0 += room(v); } }
  for (let round = 0; round < 16; round++) {
    const right = round % 2 === 0;
    for (let k = 0; k < layers.length; k++) {
      const l = layers[right ? k : layers.length - 1 - k];
      const want = l.map((v) => {
        let near = right ? at[v].up : at[v].down;
        if (round >= 12) near = [...at[v].up, ...at[v].down];
        return near.length ? near.reduce((s, u) => s + y[u], 0) / near.length : y[v];
      });
      fit(l, want, room).forEach((m, p) => (y[l[p]] = m));
    }
  }
  return y;
}

// fit finds the places nearest to those wanted, in the least squares, that keep the order and the distances: neighbours that
// would come too near form a block, which moves as one.
function fit(l, want, room) {
  const offset = [];
  let sum = 0;
  l.forEach((v, k) => { if (k) sum += (room(l[k - 1]) + room(v)) / 2; offset.push(sum); });
  const blocks = [];
  want.forEach((w, k) => {
    let b = { sum: w - offset[k], n: 1 };
    while (blocks.length && blocks.at(-1).sum / blocks.at(-1).n > b.sum / b.n) { const a = blocks.pop(); b = { sum: a.sum + b.sum, n: a.n + b.n }; }
    blocks.push(b);
  });
  const out = [];
  for (const b of blocks) for (let k = 0; k < b.n; k++) out.push(b.sum / b.n + offset[out.length]);
  return out;
}
