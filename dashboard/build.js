// Builds the page into the Python package: `npm run build`. The same sources and lock file give the same bytes, so CI
// rebuilds and compares. Names carry a digest of the content: browsers may keep such a file forever.

import { build } from "esbuild";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const here = dirname(fileURLToPath(import.meta.url));
const target = process.argv[2] ?? join(here, "../proxy/quotapool/dashboard/files");
const MOST_BYTES = 60_000; // gzipped: what one reader loads, with the largest language beside English

const { outputFiles } = await build({
  absWorkingDir: here, // names of chunks depend on it
  entryPoints: { app: "src/main.tsx", style: "src/style.css" },
  bundle: true,
  splitting: true, // a language is loaded when it is chosen
  minify: true,
  format: "esm",
  target: ["es2022"],
  charset: "utf8",
  legalComments: "none",
  entryNames: "[name]-[hash]",
  chunkNames: "[name]-[hash]",
  write: false,
  outdir: "/",
});

mkdirSync(target, { recursive: true });
for (const name of readdirSync(target)) {
  if (/\.(js|css|html)$/.test(name)) rmSync(join(target, name));
}
let page = readFileSync(join(here, "src/index.html"), "utf8");
const files = outputFiles.map(({ path, contents }) => [basename(path), contents]);
for (const [name] of files) page = page.replace(`/assets/${name.replace(/-[A-Z0-9]+\./, ".")}`, `/assets/${name}`);
files.push(["index.html", Buffer.from(page)]);
const sizes = { all: 0, language: 0 };
for (const [name, content] of files) {
  const bytes = gzipSync(content, { level: 9 }).length;
  if (/^(app|style|index)/.test(name)) sizes.all += bytes;
  else sizes.language = Math.max(sizes.language, bytes);
  writeFileSync(join(target, name), content);
}
const bytes = sizes.all + sizes.language;
console.log(`${bytes} bytes gzipped (${sizes.language} of them a language), of ${MOST_BYTES} at most`);
if (bytes > MOST_BYTES) process.exit(1);
