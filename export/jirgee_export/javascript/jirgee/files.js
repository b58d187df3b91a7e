/** The files of a bundle, from a web address or (in Node.js) from a directory, each checked against its SHA-256. */

const FORMAT = "jirgee-bundle", VERSION = 1;

/** @param {string|URL} place a directory's address. @param {(done: number, total: number) => void} onProgress bytes
 * @returns {Promise<{manifest: object, files: Map<string, Uint8Array>}>} */
export async function readBundle(place, onProgress = () => {}) {
  const read = await reader(place);
  const raw = await read("manifest.json");
  const wanted = new TextDecoder().decode(await read("manifest.sha256")).slice(0, 64);
  await check("manifest.json", raw, wanted);
  const manifest = JSON.parse(new TextDecoder().decode(raw));
  if (manifest.format !== FORMAT) throw new Error(`${place}: manifest.json is not a jirgee bundle's`);
  if (manifest.version !== VERSION) {
    throw new Error(`${place}: bundle format version ${manifest.version}; this module reads version ${VERSION}`);
  }
  if (manifest.cascade) throw new Error(`${place}: cascades are not scored in JavaScript`);
  const names = ["model.onnx", manifest.tokenizer.file, ...(manifest.ngram_weight ? ["ngrams.npz"] : [])];
  const total = names.reduce((sum, name) => sum + manifest.files[name].size, 0);
  const files = new Map();
  let before = 0;
  for (const name of names) {
    const bytes = await read(name, (done) => onProgress(before + done, total));
    await check(name, bytes, manifest.files[name].sha256);
    files.set(name, bytes);
    before += bytes.length;
    onProgress(before, total);
  }
  return { manifest, files };
}

/** A function name -> bytes. */
async function reader(place) {
  const text = String(place);
  if (globalThis.process?.versions?.node && !/^https?:/.test(text)) {
    const [{ readFile }, { join }, { fileURLToPath }] = await Promise.all(
      ["node:fs/promises", "node:path", "node:url"].map((name) => import(name)),
    );
    const directory = text.startsWith("file:") ? fileURLToPath(text) : text;
    return async (name) => new Uint8Array(await readFile(join(directory, name)));
  }
  const base = new URL(text.endsWith("/") ? text : `${text}/`, globalThis.location?.href);
  return (name, onProgress) => download(new URL(name, base), onProgress);
}

/** The bytes at an address; `onProgress` is told how many have come. */
export async function download(address, onProgress = () => {}) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address}: ${answer.status} ${answer.statusText}`);
  const parts = [];
  let done = 0;
  for (const stream = answer.body.getReader(); ; ) {
    const part = await stream.read();
    if (part.done) break;
    parts.push(part.value);
    onProgress((done += part.value.length));
  }
  const bytes = new Uint8Array(done);
  parts.reduce((at, part) => (bytes.set(part, at), at + part.length), 0);
  return bytes;
}

/** Throws unless the SHA-256 is the wanted one. A page that is neither local nor on https is given no SHA-256. */
async function check(name, bytes, wanted) {
  if (!globalThis.crypto?.subtle) return;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== wanted) throw new Error(`${name} is damaged (its SHA-256 is not the manifest's); export it again`);
}
