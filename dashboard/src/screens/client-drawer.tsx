// One client or team: how its limits stand, its options, and what can be done with it.

import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";
import { path, post, remove } from "../api";
import * as format from "../format";
import { Bar, Button, Empty, Field, Time } from "../parts/bits";
import { Dialog, Question } from "../parts/dialog";
import { Facts } from "../parts/facts";
import { ShortTable } from "../parts/short-table";
import { link, look } from "../place";
import type { ClientRotated, ClientRow, RuleRow, TeamRow } from "../shapes";
import { t } from "../words";
import { OptionsForm } from "./client-form";
import { clientColumns } from "./clients";
import { Recorded } from "./events";
import { Snippets } from "./snippets";

type Verb = "rotate" | "suspend" | "resume" | "revoke";

export const taken = (rule: RuleRow): number => (rule.limit ? (rule.used + rule.held) / rule.limit : 1);

/** How much of it is taken. */
export function Level({ of }: { of: RuleRow }) {
  const share = taken(of);
  return <><Bar value={share} tone={share < 0.8 ? "good" : share < 1 ? "warn" : "bad"} label={of.words} /> {format.share(share)}</>;
}

function Rules({ of }: { of: RuleRow[] }) {
  const amount = (rule: RuleRow, value: number) => (rule.unit === "usd" ? format.usd : format.count)(value);
  return (
    <ShortTable bare orNone title={t("limits")} numbers={2} heads={[t("limits"), t("used"), t("left"), t("resets")]}
      rows={of.map((rule) => [
        <>{rule.words} <small>{rule.subject} · {rule.mode}</small></>,
        <Level of={rule} />,
        <>{amount(rule, rule.left)} {rule.held > 0 && <small>{t("held", { n: amount(rule, rule.held) })}</small>}</>,
        rule.resets_at ? <span title={format.moment(rule.resets_at)}>{format.until(rule.resets_at)}</span> : "–",
      ])}
    />
  );
}

export function Drawer({ kind, id, row, teams, onSaved }: {
  kind: "client" | "team"; id: string; row: ClientRow | TeamRow | undefined; teams: string[]; onSaved: (id: string, key?: string | null) => void;
}) {
  const at = path(`/${kind}s`, id);
  const [asked, setAsked] = useState<Verb | null>(null);
  const [typed, setTyped] = useState("");
  const [edits, setEdits] = useState(0);
  const leave = () => look({ team: "" }, "");
  const ask = (verb: Verb) => {
    setTyped(verb === "rotate" ? "24" : "");
    setAsked(verb);
  };
  const act = async (verb: Verb) => {
    if (verb === "rotate") return onSaved(id, (await post<ClientRotated>(`${at}/rotate`, { overlap_s: Number(typed) * 3_600 })).key);
    if (verb === "revoke") {
      await remove(at);
      leave();
    } else await post(`${at}/${verb}`, verb === "suspend" && typed.trim() ? { reason: typed.trim() } : {});
    onSaved(id);
  };
  const verb = (name: Verb) => <Button change kind={name === "revoke" ? "danger" : "plain"} onClick={() => (name === "resume" ? act(name) : ask(name))}>{t(`verb.${name}`)}</Button>;
  const client = row && "weight" in row && row;
  const stored = row?.source === "store";
  const facts = (): [string, ComponentChildren][] =>
    client
      ? [
          ...clientColumns().slice(2).map(({ title, cell }): [string, ComponentChildren] => [title, cell(client)]),
          [t("reason"), client.suspended],
          [t("option.weight"), format.count(client.weight)],
          [t("option.max_wait"), client.max_wait !== null && format.seconds(client.max_wait)],
          [t("option.allowed_ips"), client.allowed_ips.join(", ")],
          [t("option.cache"), String(client.cache ?? "")],
          [t("old-key-until"), client.old_key_until && <Time at={client.old_key_until} />],
          [t("requests"), <><a href={link("requests", { client: id })}>{t("its-requests")}</a> · <a href={link("requests", { client: id, errors: "true" })}>{t("its-errors")}</a></>],
        ]
      : [[t("screen.clients"), (row as TeamRow).clients.map((one) => <a key={one} href={link("clients", {}, one)}>{one} </a>)]];
  return (
    <Dialog kind="drawer" title={`${t(kind)} ${id}`} onClose={leave}>
      {!row ? (
        <Empty title={t("unknown")} />
      ) : (
        <>
          <div class="buttons">
            {client && verb(client.suspended === null ? "suspend" : "resume")}
            {client && stored && verb("rotate")}
            {stored && verb("revoke")}
          </div>
          <Rules of={row.rules} />
          <Facts of={[[t("option.name"), row.name], ...facts(), [t("option.time_zone"), row.time_zone], [t("option.notes"), row.notes], [t("added"), row.added && <Time at={row.added} />]]} />
          {stored ? (
            <details key={edits}>
              <summary>{t("edit")}</summary>
              <OptionsForm kind={kind} row={row} teams={teams} onSaved={() => { setEdits(edits + 1); onSaved(id); }} />
            </details>
          ) : (
            <p class="muted">{t("configured", { option: `${kind}s` })}</p>
          )}
          {client && (
            <details>
              <summary>{t("how-to-connect")}</summary>
              <Snippets secret="…" />
            </details>
          )}
          <Recorded of={`${kind[0]}/${id}`} />
        </>
      )}
      {asked && (
        <Question title={`${t(`verb.${asked}`)} ${id}?`} verb={t(`verb.${asked}`)} danger={asked === "revoke"} disabled={asked === "revoke" && typed !== id} onYes={() => act(asked)} onClose={() => setAsked(null)}>
          <Field label={t(asked === "rotate" ? "rotate-field" : asked === "revoke" ? "revoke-field" : "reason")} value={typed} onInput={setTyped} type={asked === "rotate" ? "number" : "text"} />
        </Question>
      )}
    </Dialog>
  );
}
