import { render } from "preact";
import { findSession } from "./api";
import * as live from "./live";
import { App } from "./parts/shell";
import * as place from "./place";
import * as words from "./words";

const root = document.getElementById("app");
if (root) {
  place.start();
  await words.start();
  void findSession().then(live.start);
  render(<App />, root);
}
