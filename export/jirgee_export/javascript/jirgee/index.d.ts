/** What `score` returns: one entry a text, in order. */
export interface Scores {
  /** Names of the classes, in the order of the probabilities. */
  classes: string[];
  /** The most probable class of each text. */
  labels: string[];
  /** Probabilities of every class for each text; each sums to 1. */
  probs: Float32Array[];
}

export class Scorer {
  readonly classes: string[];
  /** The bundle's manifest.json. */
  readonly manifest: Record<string, unknown>;

  /** Open a bundle: a directory, or the address of one. Rejects if it is damaged or not understood.
   * `onProgress`: bytes read, and how many there are (0: not known yet). */
  static load(
    place: string | URL,
    options?: { onProgress?: (done: number, total: number) => void },
  ): Promise<Scorer>;

  /** Score texts. Repeats are computed once.
   * `onBatch`: called, and waited for, as results come, with places in `texts`; `false` ends the work there.
   * `share`: [i, n] computes only every n-th batch, from the i-th on, for n workers that are given the same texts.
   * Texts that were not computed have `undefined` as label and probabilities. */
  score(
    texts: string[],
    options?: { onBatch?: (rows: number[], probs: Float32Array[]) => unknown; share?: [number, number] },
  ): Promise<Scores>;

  /** Free the model's memory. */
  close(): Promise<void>;
}
