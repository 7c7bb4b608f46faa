// One key: its state and why, what to do, what is left, who uses it, what happened to it.

import { useState } from "preact/hooks";
import { path, post, remove } from "../api";
import * as format from "../format";
import { useLoaded } from "../load";
import { Badge, Bar, Button, Time } from "../parts/bits";
import { Dialog, Question } from "../parts/dialog";
import { Facts, to } from "../parts/facts";
import { OutsideNote } from "../parts/outside";
import { Read } from "../parts/reading";
import { ShortTable } from "../parts/short-table";
import { close, link } from "../place";
import type { BudgetRow, KeyLine, KeyRow, KeyUsers, Level, ProbeResult } from "../shapes";
import { said, t } from "../words";
import { Recorded } from "./events";
import { columns } from "./keys";
import { VERBS, type Verb } from "./work";

const DIMENSIONS = ["rpm", "rpd", "tpm", "tpd", "ipm"] as const;

export function KeyDrawer({ id, line, onChange }: { id: string; line: KeyLine | undefined; onChange: () => void }) {
  const at = path("/keys", id);
  const read = useLoaded<KeyRow>(at, 10);
  const users = useLoaded<KeyUsers>(`${at}/users`).data?.users ?? [];
  const [probe, setProbe] = useState<ProbeResult | null>(null);
  const [asked, setAsked] = useState<Verb | null>(null);
  const act = async (verb: Verb) => {
    if (verb === "forget") {
      await remove(at);
      close();
    } else {
      const answer = await post<ProbeResult>(`${at}/${verb}`);
      setProbe(verb === "probe" ? answer : null);
      read.again();
    }
    onChange();
  };
  return (
    <Dialog kind="drawer" title={`${t("key")} ${id}`} onClose={close}>
      <Read of={read}>
        {(key) => (
          <>
            <div class="buttons">
              {VERBS.filter((verb) => verb !== "forget" || key.source === "store").map((verb) => {
                const asks = verb === "remove" || verb === "forget";
                return <Button key={verb} change kind={asks ? "danger" : "plain"} onClick={() => (asks ? setAsked(verb) : act(verb))}>{t(`action.${verb}`)}</Button>;
              })}
            </div>
            <p role="status">{probe && <><Badge tone={probe.valid ? "good" : "bad"}>{t(`result.${probe.valid ? "" : "not "}valid`)}</Badge> {probe.answer} {probe.detail} {probe.next}</>}</p>
            <OutsideNote of={key.outside_use ?? []} />
            <Facts
              of={[
                ...(line ? columns().slice(1).map(({ title, cell }): [string, preact.ComponentChildren] => [title, cell(line)]) : []),
                [t("since"), key.since && <Time at={key.since} />],
                [t("next-try"), key.next_try && format.until(key.next_try)],
                [t("evidence"), key.evidence && <>{key.evidence.status || ""} {key.evidence.message} <small>{key.evidence.upstream_request_id} · {key.evidence.by}</small></>],
                [t("organization"), key.organization],
                [t("per-day"), key.credit && format.usd(key.credit["per_day_usd"] as number)],
                [t("source"), said("source", key.source)],
              ]}
            />
            <Budgets of={key.budgets} />
            <ShortTable bare orNone title={t("users")} numbers={1} heads={[t("users"), t("requests"), t("tokens"), t("cost")]}
              rows={users.map(({ client, requests, tokens, usd }) => [
                to("clients", String(client)),
                format.count(requests as number), format.count(tokens as number), format.usd(usd as number),
              ])}
            />
            <a href={link("requests", { key: id })}>{t("its-requests")}</a>
            <Recorded of={`k/${id}`} also={`a/${key.account}`} />
          </>
        )}
      </Read>
      {asked && (
        <Question title={`${t(`action.${asked}`)} ${id}?`} verb={t(`action.${asked}`)} danger onYes={() => act(asked)} onClose={() => setAsked(null)}>
          <p>{t(`about.${asked}`)}</p>
        </Question>
      )}
    </Dialog>
  );
}

function Budgets({ of }: { of: BudgetRow[] }) {
  const rows = of.flatMap((budget) => DIMENSIONS.map((dimension): [BudgetRow, string, Level | null | undefined] => [budget, dimension, budget[dimension]]));
  return (
    <ShortTable bare orNone title={t("limit-of")} numbers={2} heads={[t("limit-of"), t("left"), t("left-of-limit")]}
      rows={rows.flatMap(([{ model, cooling_s }, dimension, level]) => {
        if (!level) return [];
        const share = level.limit ? Math.max(0, level.remaining / level.limit) : 0;
        return [[
          <>{model} <small>{format.unit(dimension)}</small> {cooling_s > 0 && <Badge tone="info">{t("state.cooling")} {format.seconds(cooling_s)}</Badge>}</>,
          <><Bar value={share} label={t("left-label", { model, dimension })} /> {format.share(share)}</>,
          `${format.count(Math.round(level.remaining))} / ${format.count(level.limit)}`,
        ]];
      })}
    />
  );
}
