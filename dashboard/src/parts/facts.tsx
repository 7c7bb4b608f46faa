// What is said about one thing: names and values, sums, links, commands.

import type { ComponentChildren } from "preact";
import { link, type Screen } from "../place";
import { Copy } from "./bits";

/** Names and values, one below the other, without those that are not known. */
export function Facts({ of }: { of: [string, ComponentChildren][] }) {
  return (
    <dl class="facts">
      {of.filter(([, value]) => value).map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

export function Sums({ of }: { of: [string, ComponentChildren][] }) {
  return (
    <ul class="figures">
      {of.map(([name, value]) => (
        <li key={name} class="sum">
          <strong>{value}</strong>
          <span>{name}</span>
        </li>
      ))}
    </ul>
  );
}

export const to = (screen: Screen, id: string) => <a href={link(screen, {}, id)}>{id}</a>;

/** A text to copy. */
export const Command = ({ text }: { text: string }) => (
  <span class="buttons">
    <code>{text}</code>
    <Copy text={text} />
  </span>
);

/** The proxy writes commands and options of its texts in backticks. */
export const coded = (text: string) => text.split("`").map((part, n) => (n % 2 ? <code key={n}>{part}</code> : part));
