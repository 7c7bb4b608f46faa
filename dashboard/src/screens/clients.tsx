// Who may use the pool, and how much of what: clients and their teams.

import { useMemo, useState } from "preact/hooks";
import { mayChange } from "../api";
import * as format from "../format";
import { useLoaded } from "../load";
import { Button, Empty, Panel, StateBadge } from "../parts/bits";
import { Dialog } from "../parts/dialog";
import { Filter, NoRows } from "../parts/filters";
import { Read } from "../parts/reading";
import { Table, type Column } from "../parts/table";
import { link, look, open, place, refine, toMain } from "../place";
import type { ClientRow, ClientRows, RuleRow, TeamRow, TeamRows } from "../shapes";
import { useValue } from "../value";
import { said, t } from "../words";
import { Drawer, Level, taken } from "./client-drawer";
import { OptionsForm } from "./client-form";
import { NewKey } from "./snippets";

const tightest = ({ rules }: { rules: RuleRow[] }): RuleRow | undefined => [...rules].sort((a, b) => taken(b) - taken(a))[0];

const teamColumns = <Row extends ClientRow | TeamRow>(title: string): Column<Row>[] => [
  { name: "id", title, cell: (row) => <><strong>{row.id}</strong> <small>{row.name}</small></>, order: (row) => row.id, width: "minmax(7rem, 1.5fr)" },
  {
    name: "rule", title: t("tightest"), width: "minmax(6rem, 2.2fr)",
    order: (row) => { const rule = tightest(row); return rule ? taken(rule) : -1; },
    cell: (row) => { const rule = tightest(row); return rule && <span title={rule.words}><Level of={rule} /> <small>{rule.words}</small></span>; },
  },
];

/** They are also what is told first about one client. */
export const clientColumns = (): Column<ClientRow>[] => [
  ...teamColumns<ClientRow>(t("client")),
  { name: "state", title: t("state"), cell: (row) => <span title={row.suspended ?? ""}><StateBadge state={row.suspended === null ? "active" : "suspended"} /></span>, order: (row) => row.suspended ?? "", width: "6rem" },
  { name: "team", title: t("team"), cell: (row) => row.team && <a href={link("clients", { team: row.team })}>{row.team}</a>, order: (row) => row.team ?? "", kind: "wide" },
  { name: "priority", title: t("option.priority"), cell: (row) => said("", row.priority), order: (row) => row.priority, kind: "wide", width: "5rem" },
  { name: "models", title: t("option.models"), cell: (row) => row.models.join(", ") || t("all"), kind: "wide" },
  { name: "expires", title: t("expires"), cell: (row) => format.day(row.expires_on), order: (row) => row.expires_on ?? "9", kind: "wide", width: "7.5rem" },
  { name: "seen", title: t("last-used"), cell: (row) => format.day(row.last_seen), order: (row) => row.last_seen ?? "", kind: "wide", width: "7.5rem" },
];

export function Clients() {
  const { id, filters } = useValue(place);
  const { q = "", add = "", team = "" } = filters;
  const clients = useLoaded<ClientRows>("/clients", 15);
  const teams = useLoaded<TeamRows>("/teams", 15);
  const [fresh, setFresh] = useState<[id: string, key: string] | null>(null);
  const columns = useMemo(clientColumns, []);
  const ofTeams = useMemo(() => teamColumns<TeamRow>(t("team")), []);
  const all = clients.data?.clients;
  const rows = useMemo(() => all?.filter((row) => [row.id, row.name, row.team, row.notes].join(" ").toLowerCase().includes(q.toLowerCase())) ?? [], [all, q]);
  const names = teams.data?.teams.map((row) => row.id) ?? [];
  const again = () => {
    clients.again();
    teams.again();
  };
  // A new key is shown in the page itself: a dialog may be closed by mistake.
  const onSaved = (name: string, key?: string | null) => {
    if (key) {
      look({ add: "", team: "" }, "");
      setFresh([name, key]);
    } else refine({ add: "" });
    again();
  };
  return (
    <>
      <div class="head">
        <h1>{t("screen.clients")}</h1>
        <Button change kind="primary" onClick={() => look({ add: "client" })}>{t("add-client")}</Button>
      </div>
      {fresh && <NewKey id={fresh[0]} secret={fresh[1]} onClose={() => { toMain(); setFresh(null); }} />}
      <div class="filters"><Filter name="q" /></div>
      <Read of={clients}>
        {() => <Table rows={rows} columns={columns} id={(row) => row.id} label={t("screen.clients")} onOpen={(row) => open(row.id)} empty={<NoRows filtered={!!all?.length} none="no-client" />} />}
      </Read>
      <Panel title={t("teams")} aside={<Button change onClick={() => look({ add: "team" })}>{t("add-team")}</Button>}>
        <Table rows={teams.data?.teams ?? []} columns={ofTeams} id={(row) => row.id} label={t("teams")} onOpen={(row) => look({ team: row.id })} empty={<Empty title={t("no-team")} />} />
      </Panel>
      {(add === "client" || add === "team") && mayChange() && (
        <Dialog kind="drawer" title={t(`add-${add}`)} onClose={() => refine({ add: "" })}>
          <OptionsForm kind={add} teams={names} onSaved={onSaved} />
        </Dialog>
      )}
      {id ? (
        <Drawer key={id} kind="client" id={id} row={all?.find((row) => row.id === id)} teams={names} onSaved={onSaved} />
      ) : (
        team && <Drawer key={team} kind="team" id={team} row={teams.data?.teams.find((row) => row.id === team)} teams={names} onSaved={onSaved} />
      )}
    </>
  );
}
