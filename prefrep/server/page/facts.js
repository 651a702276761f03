// What follows from a table of log-odds: probabilities, cycles, sentences. No document is touched here.
export const letters = "ABCDEFGH";

export const wins = (table) => table.map((row) => row.map((value) => 1 / (1 + Math.exp(-value))));

export const percent = (p) => (p < 0.001 ? "<0.1" : p > 0.999 ? ">99.9" : (100 * p).toFixed(p < 0.1 || p > 0.9 ? 1 : 0)) + "\u00a0%";

// A victory i > j lies on a cycle if j reaches i through victories. `triples` are the cycles of three, each named once.
export function cycles(table) {
  const all = table.map((_, i) => i);
  const reach = table.map((row) => row.map((value) => value > 0));
  for (const k of all) for (const i of all) for (const j of all) reach[i][j] ||= reach[i][k] && reach[k][j];
  const cyclic = new Set();
  for (const i of all) for (const j of all) if (table[i][j] > 0 && reach[j][i]) cyclic.add(`${i}>${j}`);
  const triples = [];
  for (const i of all) for (const j of all) for (const k of all) {
    if (i < j && i < k && table[i][j] > 0 && table[j][k] > 0 && table[k][i] > 0) triples.push([i, j, k]);
  }
  return { cyclic, triples };
}

// The first sentence is a summary; the others name every pair and every cycle.
export function inWords(table, probabilities, order, found) {
  const ranking = order.map((i) => letters[i]).join(", ");
  const undefeated = table.findIndex((row, i) => row.every((value, j) => i === j || value > 0));
  const best = undefeated >= 0 ? `${letters[undefeated]} beats every other answer.` : "No answer beats every other one.";
  const circles = found.triples.map(([i, j, k]) => `${letters[i]} beats ${letters[j]}, ${letters[j]} beats ${letters[k]}, and ${letters[k]} beats ${letters[i]}`);
  const summary = `${best} ${circles.length ? `${circles[0]}: one number per answer cannot say that.` : "One number per answer can say that."} By mean log-odds: ${ranking}.`;
  const pairs = [];
  table.forEach((row, i) => row.forEach((value, j) => {
    if (value > 0) pairs.push(`${letters[i]} beats ${letters[j]} with a probability of ${percent(probabilities[i][j])}.`);
    if (value === 0 && i < j) pairs.push(`${letters[i]} and ${letters[j]} are equally good.`);
  }));
  return [summary, ...pairs, ...circles.map((circle) => `A cycle: ${circle}.`)];
}
