// Accounts and their credit, the pool's spend by day, and how our books compare with OpenAI's.

import { useMemo } from "preact/hooks";
import * as format from "../format";
import { now } from "../live";
import { useLoaded } from "../load";
import { Bar, Button, Panel, StateBadge } from "../parts/bits";
import { Chart } from "../parts/chart";
import { figure, text } from "../parts/columns";
import { coded, Sums } from "../parts/facts";
import { Filter, NoRows } from "../parts/filters";
import { Read } from "../parts/reading";
import { ShortTable } from "../parts/short-table";
import { Table, type Column } from "../parts/table";
import { open, place } from "../place";
import type { AccountRow, AccountRows, Reconciliation, UsageRows } from "../shapes";
import { useValue } from "../value";
import { said, t, told } from "../words";
import { AccountDrawer, byDay, creditOf, lastDays } from "./account-drawer";

const DAYS = 30;

/** In trouble first, then those whose credit or limit is known, the first to be empty first. */
export function byNeed(a: AccountRow, b: AccountRow): number {
  const order = (row: AccountRow) => {
    const { remaining_usd: left, month_limit_usd: limit, empty_at: end } = creditOf(row);
    const rank = row.state !== "active" || !row.usable ? 0 : left !== undefined ? 1 : limit ? 2 : 3;
    return [rank, end ? Date.parse(end) : 9e15, left ?? 9e15] as const;
  };
  const [one, other] = [order(a), order(b)];
  return one[0] - other[0] || one[1] - other[1] || one[2] - other[2];
}

const columns = (): Column<AccountRow>[] => [
  text("account", (row) => row.id, "minmax(6rem, 1fr)"),
  figure("left", (row) => creditOf(row).remaining_usd, format.usd, "number"),
  figure("per-day", (row) => creditOf(row).per_day_usd, format.usd),
  text("lasts-until", (row) => creditOf(row).empty_at ?? "", "7.5rem", "wide", (row) => format.day(creditOf(row).empty_at)),
  text("expires-on", (row) => creditOf(row).next_expiry ?? "", "7.5rem", "wide", (row) => format.day(creditOf(row).next_expiry)),
  {
    ...figure<AccountRow>("this-month", (row) => creditOf(row).month_spent_usd), kind: "wide", width: "12.5rem",
    cell: (row) => {
      const { month_spent_usd: spent = 0, month_limit_usd: limit } = creditOf(row);
      return limit ? <><Bar value={spent / limit} tone={spent > 0.9 * limit ? "bad" : "info"} label={t("this-month")} /> {format.usd(spent)} / {format.usd(limit)}</> : format.usd(spent);
    },
  },
  text("state", (row) => row.state, "7.5rem", "", (row) => <StateBadge state={row.state} />),
  text("next", (row) => row.reason, "minmax(7rem, 2fr)", "wide", (row) => <span title={row.next}>{row.reason && said("reason", row.reason)} {told("next", row.reason, row.next)}</span>),
  { ...figure("screen.keys", (row) => row.usable), cell: (row) => `${row.usable} / ${row.keys}` },
];

export function Money() {
  const { id, filters } = useValue(place);
  const loaded = useLoaded<AccountRows>("/accounts", 60);
  const { data } = loaded;
  const all = useMemo(columns, []);
  const q = filters.q?.toLowerCase() ?? "";
  const rows = useMemo(
    () => (data?.accounts ?? []).filter((row) => [row.id, row.organization, row.tier, row.state, row.reason].join(" ").toLowerCase().includes(q)).sort(byNeed),
    [data, q],
  );
  return (
    <>
      <div class="head">
        <h1>{t("screen.money")}</h1>
        <Filter name="q" />
      </div>
      <Read of={loaded}>
        {({ accounts }) => (
          <>
            <Table rows={rows} columns={all} id={(row) => row.id} label={t("accounts")} onOpen={(row) => open(row.id)} height="55vh"
              empty={<NoRows filtered={!!q} none="accounts-none" next="accounts-none-next" />} />
            {id && <AccountDrawer key={id} id={id} row={accounts.find((one) => one.id === id)} again={loaded.again} />}
          </>
        )}
      </Read>
      <Month />
      <Reconciled />
    </>
  );
}

function Month() {
  const state = useValue(now);
  const at = lastDays(DAYS);
  const limit = state?.daily_limit_usd;
  return (
    <Panel title={t("spend")}>
      <Read of={useLoaded<UsageRows>(`/usage?by=day&since=${DAYS}d`, 60)}>
        {({ rows, month_to_date_usd }) => (
          <>
            <Sums of={[
              [t("this-month"), format.usd(month_to_date_usd)],
              [t("spent-today"), format.usd(state?.spent_today_usd)],
              [t("daily-limit"), format.usd(limit)],
            ]} />
            <Chart at={at} label={t("spend")} show={format.usd} lines={[
              { name: t("spend"), values: byDay(rows, at), colour: 0, fill: true },
              ...(limit ? [{ name: t("daily-limit"), values: at.map(() => limit), colour: "limit" as const }] : []),
            ]} />
          </>
        )}
      </Read>
    </Panel>
  );
}

function Reconciled() {
  const loaded = useLoaded<Reconciliation>("/reconciliation");
  return (
    <Panel title={t("reconciliation")} aside={<small>{loaded.data?.month}</small>}>
      <Read of={loaded}>
        {({ rows, problem }) => (
          <>
            {problem && (
              <>
                <p class="note">{coded(problem)}</p>
                <p class="buttons">
                  <Button onClick={loaded.again}>{t("try-again")}</Button>
                </p>
              </>
            )}
            <ShortTable bare title={t("reconciliation")} numbers={2} heads={[t("organization"), t("reason"), t("ours"), "OpenAI", t("difference")]}
              rows={rows.map((row) => [row.name, row.problem, format.usd(row.ours_usd), format.usd(row.theirs_usd), format.usd(row.difference_usd)])} />
          </>
        )}
      </Read>
    </Panel>
  );
}
