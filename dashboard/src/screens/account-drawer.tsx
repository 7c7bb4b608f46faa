// One account: its credit, what it was granted, how fast it is spent and when it will be gone.

import { useState } from "preact/hooks";
import * as format from "../format";
import { query } from "../api";
import { useLoaded } from "../load";
import { Button, Empty, StateBadge } from "../parts/bits";
import { Chart } from "../parts/chart";
import { Dialog } from "../parts/dialog";
import { coded, Facts } from "../parts/facts";
import { OutsideNote, useOutside } from "../parts/outside";
import { Read } from "../parts/reading";
import { ShortTable } from "../parts/short-table";
import { close, link } from "../place";
import type { AccountRow, UsageRow, UsageRows } from "../shapes";
import { said, t, told } from "../words";
import { TopUpQuestion } from "./top-up";

const DAY = 86_400;
const DAYS = 30; // of the past
const MOST_AHEAD = 60;

/** What is known of it; the rest is left out. */
export interface CreditNow {
  month_spent_usd?: number;
  per_day_usd?: number;
  remaining_usd?: number;
  expiring_unused_usd?: number;
  empty_at?: string;
  next_expiry?: string;
  month_limit_usd?: number;
  error_days?: number;
}

export const creditOf = (row: AccountRow): CreditNow => row.credit;

/** The last days (UTC), each by its beginning in Unix seconds, today's last; then `ahead` that are to come. */
export function lastDays(count: number, ahead = 0): number[] {
  const today = Math.floor(Date.now() / 1_000 / DAY) * DAY;
  return Array.from({ length: count + ahead }, (_, n) => today + (n + 1 - count) * DAY);
}

/** What was spent on each of these days; days to come have none. */
export function byDay(rows: UsageRow[], at: number[]): (number | null)[] {
  const of = new Map(rows.map((row) => [Date.parse(row.day ?? "") / 1_000, row.usd]));
  return at.map((day) => of.get(day) ?? (day * 1_000 > Date.now() ? null : 0));
}

/** What will be left at the end of each of these days at this pace; nothing of those before today. */
export function projected(credit: CreditNow, at: number[], now = Date.now() / 1_000): (number | null)[] {
  const { remaining_usd: left, per_day_usd: pace = 0, expiring_unused_usd: lost = 0, next_expiry: expiry } = credit;
  if (left === undefined) return at.map(() => null);
  const expires = expiry ? Date.parse(expiry) / 1_000 : Infinity;
  return at.map((day) => (day + DAY < now ? null : Math.max(0, left - (pace * Math.max(0, day - now)) / DAY - (day >= expires ? lost : 0))));
}

export function AccountDrawer({ id, row, again }: { id: string; row: AccountRow | undefined; again: () => void }) {
  const [toppingUp, setToppingUp] = useState(false);
  const outside = useOutside(id);
  return (
    <Dialog kind="drawer" title={id} onClose={close}>
      {row ? (
        <>
          <p class="buttons">
            <StateBadge state={row.state} />
            <a href={link("keys", { account: id })}>
              {t("screen.keys")}: {row.usable} / {row.keys}
            </a>
            <Button kind="primary" change onClick={() => setToppingUp(true)}>
              {t("action.topup")}
            </Button>
          </p>
          {row.next && (
            <p class="note">
              <strong>{said("reason", row.reason)}</strong> {coded(told("next", row.reason, row.next))}
            </p>
          )}
          <OutsideNote of={outside} />
          <Details of={row} />
          <BurnDown of={row} />
        </>
      ) : (
        <Empty title={t("unknown")} />
      )}
      {toppingUp && <TopUpQuestion account={id} onClose={() => setToppingUp(false)} onDone={again} />}
    </Dialog>
  );
}

function Details({ of }: { of: AccountRow }) {
  const credit = creditOf(of);
  const unused = credit.expiring_unused_usd;
  return (
    <>
      <Facts of={[
        [t("left"), credit.remaining_usd === undefined ? t("credit-none-next") : format.usd(credit.remaining_usd)],
        [t("per-day"), format.usd(credit.per_day_usd)],
        [t("lasts-until"), format.day(credit.empty_at) + (credit.empty_at && credit.error_days !== undefined ? ` ± ${format.count(credit.error_days)} d` : "")],
        [t("expires-on"), unused ? t("expires-unused", { usd: format.usd(unused), at: format.day(credit.next_expiry) }) : format.day(credit.next_expiry)],
        [t("this-month"), format.usd(credit.month_spent_usd) + (credit.month_limit_usd ? ` / ${format.usd(credit.month_limit_usd)}` : "")],
        [t("organization"), of.organization ?? "–"],
        ["Tier", of.tier ?? "–"],
      ]} />
      <ShortTable title={t("grants")} heads={["USD", t("granted-on"), t("expires-on")]}
        rows={of.grants.map((one) => [format.usd(one.usd), format.day(one.granted_on), format.day(one.expires_on)])} />
    </>
  );
}

function BurnDown({ of }: { of: AccountRow }) {
  const credit = creditOf(of);
  const ends = Math.max(...[credit.empty_at, credit.next_expiry].map((at) => Date.parse(at ?? "") || 0)) / 1_000;
  const ahead = credit.remaining_usd ? Math.max(7, Math.min(MOST_AHEAD, Math.ceil((ends - Date.now() / 1_000) / DAY) + 2)) : 0;
  const at = lastDays(DAYS, ahead);
  return (
    <>
      <h3>{t("credit")}</h3>
      <Read of={useLoaded<UsageRows>(`/usage${query({ by: "account,day", only: of.id, since: `${DAYS}d` })}`)}>
        {({ rows }) => (
          <Chart at={at} label={t("credit")} show={format.usd} lines={[
            { name: t("spend"), values: byDay(rows, at), colour: 0, fill: true },
            ...(ahead ? [{ name: t("left-at-this-pace"), values: projected(credit, at), colour: 1 }] : []),
          ]} />
        )}
      </Read>
    </>
  );
}
