"""Builds the request path: each part once, in order, from what it needs. Workers and tests use the same build."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime

from quotapool.domain.observer import Observer
from quotapool.domain.retry import RetrySlots
from quotapool.ledger.budgets import Ledger
from quotapool.ledger.clients import ClientDirectory, ClientStore
from quotapool.ledger.rules import CLIENT, TEAM
from quotapool.money.price_list import PriceList
from quotapool.objects.owners import ObjectOwners
from quotapool.objects.placement import Objects
from quotapool.pool.admission import Admission
from quotapool.pool.configuration import Configuration, Snapshot
from quotapool.pool.key_health import KeyHealth
from quotapool.pool.roster import Prepared, Roster
from quotapool.pool.sync import RosterSync
from quotapool.probes.network_alarm import NetworkAlarm
from quotapool.request.addresses import AllowedAddresses
from quotapool.request.attempt import AttemptParts
from quotapool.request.auth import ClientAuth
from quotapool.request.charging import Charging
from quotapool.request.daily_limit import DailyLimit
from quotapool.request.failover import Failover
from quotapool.request.fetch import Fetch
from quotapool.request.me import Me
from quotapool.request.models import Catalogue
from quotapool.request.part_payment import PartPayment
from quotapool.request.path import Note, RequestPath
from quotapool.request.policy import PolicyWatch
from quotapool.request.rate_headers import PoolRateHeaders
from quotapool.request.read_on import ReadingOn
from quotapool.request.reuse import Reuse
from quotapool.session.path import SessionPath
from quotapool.session.permissions import SessionPermissions


@dataclass(frozen=True, slots=True)
class Paths:
    """The path of requests and that of sessions, and those parts that a process looks after."""

    configuration: Configuration
    auth: ClientAuth
    addresses: AllowedAddresses
    clients: ClientDirectory
    roster: Roster
    sync: RosterSync
    health: KeyHealth
    admission: Admission
    daily_limit: DailyLimit
    alarm: NetworkAlarm
    policy: PolicyWatch
    owners: ObjectOwners
    slots: RetrySlots
    reading_on: ReadingOn
    charging: Charging
    reuse: Reuse
    requests: RequestPath
    sessions: SessionPath

    def take(self, snapshot: Snapshot, roster: Prepared) -> None:
        """Serve by another configuration from now on; requests under way end with the one they began with. `roster`:
        prepared for this snapshot."""
        self.configuration.now = snapshot
        self.roster.reload(roster)
        self.owners.configure(retention_s=snapshot.settings.objects.retention)
        self.admit_clients()

    def team_of(self, client: str) -> str:
        """The client's team; "": it has none."""
        found = self.configuration.now.clients.get(client)
        return (found.team or "") if found is not None else ""

    def client_ids(self) -> dict[str, str]:
        """SHA-256 (hex) of each client key -> the client's id."""
        written = {client.key_hash: client.id for client in self.configuration.now.settings.clients}
        return {**self.clients.hashes, **written}

    def admit_clients(self) -> None:
        """Let those in whom the configuration and the store name now, with their rights."""
        settings = self.configuration.now.settings
        clients = {**self.clients.clients, **{client.id: client for client in settings.clients}}
        teams = {**self.clients.teams, **settings.teams}
        self.configuration.now = replace(self.configuration.now, clients=clients)
        if renewed := self.clients.renewed:  # what was seen of the earlier ones' rules is forgotten
            lasting = [c for c in clients.values() if not {f"{CLIENT}{c.id}", f"{TEAM}{c.team}"} & renewed]
            self.charging.configure(lasting, teams, settings.spend.time_zone)
        self.charging.configure(clients.values(), teams, settings.spend.time_zone)
        allowed = {name: client.allowed_ips for name, client in clients.items()}
        self.addresses.configure(allowed, settings.trusted_proxies)
        self.auth.configure(
            clients=self.client_ids(),
            hosts=settings.allowed_hosts,
            origins=settings.allowed_origins,
            allow_anonymous=settings.allow_anonymous,
            keys_required=settings.bind_problem() is not None,
            suspended={
                *self.clients.suspended,
                *self.clients.unreadable,
                *self.clients.teamless(clients, teams),
            },
            expiry={name: _begins(client.expires_on) for name, client in clients.items() if client.expires_on},
            old_keys=self.clients.old_keys,
        )


def build_request_path(
    snapshot: Snapshot,
    ledger: Ledger,
    observer: Observer,
    clean: Callable[[bytes], bytes],
    *,
    on_clients: Callable[[], None] = lambda: None,
    prices: Callable[[], PriceList | None] = lambda: None,
    note: Note = lambda *_: None,
) -> Paths:
    """`clean` takes secrets out of upstream's texts. `on_clients` is called when the store's client keys changed.
    `prices`: those in force; None: not known yet. `note` hears of each request that was answered, for advice."""
    settings, store = snapshot.settings, ledger.store
    configuration = Configuration(snapshot)
    client_store = ClientStore(store, settings.pool)

    def clients_changed() -> None:
        paths.admit_clients()
        on_clients()

    clients = ClientDirectory(client_store, clients_changed)
    auth, addresses = ClientAuth(), AllowedAddresses()

    roster = Roster(settings, snapshot.keys)
    sync = RosterSync(roster, ledger, observer, clients)
    health = KeyHealth(sync)
    admission = Admission(configuration, sync, ledger, observer)
    rates = PoolRateHeaders(roster.pool)
    alarm = NetworkAlarm(ledger, observer, lambda: roster.pool.size)
    policy = PolicyWatch(configuration, ledger, client_store, observer)
    daily_limit = DailyLimit()
    slots = RetrySlots(settings.retry.budget)
    reading_on = ReadingOn()
    charging = Charging(prices)
    parts = AttemptParts(
        sync, health, ledger, observer, alarm, policy, rates, slots, reading_on, admission, charging, clean
    )
    failover = Failover(
        configuration, admission=admission, ledger=ledger, sync=sync, rates=rates, slots=slots, observer=observer
    )

    fetch = Fetch(configuration, roster)
    owners = ObjectOwners(store, settings.pool, retention_s=settings.objects.retention, observer=observer)
    objects = Objects(configuration, owners, roster, fetch)
    me = Me(configuration, store, settings.pool, charging.standings)
    reuse = Reuse(configuration, since=clients.made_at, payment=PartPayment(charging, ledger.holds), prices=prices)
    requests = RequestPath(
        configuration,
        auth=auth,
        addresses=addresses,
        daily_limit=daily_limit,
        catalogue=Catalogue(configuration, roster.pool, fetch),
        objects=objects,
        failover=failover,
        parts=parts,
        me=me,
        note=note,
        reuse=reuse,
    )
    sessions = SessionPath(
        configuration,
        auth=auth,
        addresses=addresses,
        permissions=SessionPermissions(configuration, objects, daily_limit, policy),
        failover=failover,
        parts=parts,
        observer=observer,
        note=me.note,
    )
    paths = Paths(
        configuration,
        auth,
        addresses,
        clients,
        roster,
        sync,
        health,
        admission,
        daily_limit,
        alarm,
        policy,
        owners,
        slots,
        reading_on,
        charging,
        reuse,
        requests,
        sessions,
    )
    paths.admit_clients()
    return paths


def _begins(day: date) -> float:
    """Unix second at which a day begins in UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
