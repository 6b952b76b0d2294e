/**
 * Sources to assets in ../assets: viewer.js and viewer.css of a saved page, live.js and live.css of the live one, report.js
 * and report.css of a report's page, and licences.txt, the same bytes for the same sources.
 *
 * The first line of each asset holds a digest of the sources, so that it can be told without node whether they are of
 * these sources: SHA-256 over, for each file of `src` and each file in `PARTS`, by its path, its path, a line break, its bytes and a line break.
 */

import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const HERE = dirname(fileURLToPath(import.meta.url));
const ASSETS = join(HERE, "..", "assets");
/** What else the assets depend on. */
const PARTS = ["build.mjs", "package-lock.json", "package.json", "tsconfig.json"];
const BROWSERS = ["chrome123", "firefox120", "safari17.5"];

function digest() {
  const hash = createHash("sha256");
  const sources = readdirSync(join(HERE, "src")).map((name) => `src/${name}`);
  for (const path of [...PARTS, ...sources].sort()) {
    hash.update(`${path}\n`).update(readFileSync(join(HERE, path))).update("\n");
  }
  return hash.digest("hex");
}

/** The licence of every package whose code is in the bundles. */
function licences(metafiles) {
  const names = metafiles
    .flatMap((each) => Object.keys(each.inputs))
    .map((path) => /node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1])
    .filter((name) => name !== undefined);
  return [...new Set(names)].sort().map((name) => {
    const folder = join(HERE, "node_modules", name);
    const file = readdirSync(folder).find((each) => /^licen[cs]e/i.test(each));
    if (file === undefined) {
      throw new Error(`${name} has no licence file`);
    }
    const { version, license } = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
    return `${name} ${version} (${license})\n\n${readFileSync(join(folder, file), "utf8").trim()}\n`;
  });
}

async function bundled(entry, banner) {
  const made = await build({
    absWorkingDir: HERE,
    entryPoints: [entry],
    bundle: true,
    minify: true,
    charset: "ascii",
    format: "iife",
    target: BROWSERS,
    legalComments: "none",
    metafile: true,
    write: false,
    banner,
  });
  return { text: made.outputFiles[0].text, metafile: made.metafile };
}

const head = `/* nnsight_vlm viewer; sources ${digest()}; licences of what is in it: licences.txt */`;
const ENTRIES = {
  "viewer.js": "src/main.ts",
  "viewer.css": "src/viewer.css",
  "live.js": "src/live.ts",
  "live.css": "src/live.css",
  "report.js": "src/report.ts",
  "report.css": "src/report.css",
};
const made = await Promise.all(Object.entries(ENTRIES).map(async ([name, entry]) => [name, await bundled(entry, { js: head, css: head })]));
const terms = [`Code of other projects in the scripts.\n`, ...licences(made.map(([, each]) => each.metafile))].join("\n----\n\n");
for (const [name, text] of [...made.map(([name, each]) => [name, each.text]), ["licences.txt", terms]]) {
  writeFileSync(join(ASSETS, name), text);
  console.log(`${name}: ${Buffer.byteLength(text)} bytes`);
}
