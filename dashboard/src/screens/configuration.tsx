// Every option in force, and where its value comes from.

import { useLoaded } from "../load";
import { Check, Panel, Time } from "../parts/bits";
import { Filter, NoRows } from "../parts/filters";
import { Read } from "../parts/reading";
import { ShortTable } from "../parts/short-table";
import { place, refine } from "../place";
import type { Configuration as Shape } from "../shapes";
import { useValue } from "../value";
import { t } from "../words";

export function Configuration() {
  const { q = "", changed } = useValue(place).filters;
  const list = (title: string, of: string[]) => of.length > 0 && <Panel title={title}><ul>{of.map((one) => <li key={one}>{one}</li>)}</ul></Panel>;
  return (
    <Read of={useLoaded<Shape>("/configuration", 30)}>
      {({ loaded_at, options, warnings, after_restart }) => {
        const rows = options.filter((row) => `${row.option} ${row.value} ${row.source}`.toLowerCase().includes(q.toLowerCase()) && (!changed || row.source !== "default"));
        return (
          <>
            <div class="head">
              <h1>{t("screen.configuration")}</h1>
              <small>{t("loaded")} <Time at={loaded_at} /></small>
            </div>
            {list(t("warnings"), warnings)}
            {list(t("after-restart"), after_restart)}
            <div class="filters">
              <Filter name="q" />
              <Check label={t("only-changed")} checked={!!changed} onChange={(on) => refine({ changed: on ? "true" : "" })} />
            </div>
            <div class="panel wraps">
              {rows.length ? (
                <ShortTable bare title={t("screen.configuration")} heads={[t("option"), t("value"), t("source"), t("default")]}
                  rows={rows.map((row) => [row.option, <code>{row.value}</code>, row.source, <code>{row.default}</code>])} />
              ) : <NoRows filtered none="none-match" />}
            </div>
          </>
        );
      }}
    </Read>
  );
}
