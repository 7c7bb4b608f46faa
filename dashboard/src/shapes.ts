// Made by dashboard/make_types.py from the types of the admin API. Do not edit.

/** An account. `credit`: as in a key's row, and `error_days` as in the pool's; `state`, `reason`: its own, `active` and "" if nothing is wrong. */
export type AccountRow = {
  id: string;
  organization: string | null;
  tier: string | null;
  keys: number;
  usable: number;
  state: string;
  reason: string;
  next: string;
  credit: Record<string, unknown>;
  grants: Grant[];
};

export type AccountRows = {
  accounts: AccountRow[];
};

/** `usd_per_month`: what it would save; null: no money. `tpm`, `rpm`: how much more the pool could do within its limits for the model (0.38: 38 % more); null: nothing. `facts`: the counts it is computed from; `how` says how. */
export type AdviceRow = {
  kind: "cache_key" | "can_wait" | "maximum" | "repeats" | "single_embeddings" | "snapshot";
  client: string;
  model: string;
  usd_per_month: number | null;
  tpm: number | null;
  rpm: number | null;
  facts: Record<string, number>;
  advice: string;
  how: string;
};

/** Of the last seven days, those first that save most. `enabled`: requests are being noted; `days`: how long they have been, seven at most; `requests`: how many were noted. */
export type AdviceRows = {
  enabled: boolean;
  days: number;
  requests: number;
  rows: AdviceRow[];
};

/** The room it asked the pool for, granted or not. `group`: whose limits it uses; `tokens`: the estimate that is reserved; `priority`: 1 high, -1 batch; `max_wait_s`: how long it would wait; `only`: the one account that has its objects, "": any will do. */
export type AskedForRow = {
  group: string;
  tokens: number;
  images: number;
  priority: number;
  max_wait_s: number;
  only: string;
};

/** One call upstream. `wait_ms`: in the queue, for this attempt; `status`: 0 if no answer came. */
export type AttemptRow = {
  key: string;
  account: string;
  outcome: string;
  reason: string;
  status: number;
  wait_ms: number;
  ms: number;
  upstream_request_id: string;
};

/** Something to look at. `code`: a key's, account's or organisation's reason, or `dry`, `credit_low`, `credit_expires`, `outside_use`, `client_budget`, `client_expires`, `queue`, `daily_limit`, `locked`, `store_away`, `no_keys`. `ids`: the first 20 of `count` that are alike; `since`: Unix seconds, 0 if not known; `next`: what to do, or what is the case; `actions`: that help, the best first. */
export type Attention = {
  severity: "critical" | "info" | "warning";
  kind: "account" | "client" | "key" | "model" | "organization" | "pool";
  code: string;
  ids: string[];
  count: number;
  since: number;
  next: string;
  actions: ("enable" | "probe" | "replace" | "show_account" | "show_client" | "show_key" | "show_requests" | "topup")[];
};

/** One of `usd`, `tokens` and `requests` in each period. `models`: a pattern; "": all. `warn_at`: shares of it. */
export type BudgetOptions = {
  usd?: number | null;
  tokens?: number | string | null;
  requests?: number | string | null;
  per: "day" | "hour" | "minute" | "month" | "total" | "week";
  models?: string;
  mode?: "hard" | "shadow" | "soft";
  warn_at?: number[];
};

/** What is left of an account's budgets for one model group; `cooling_s`: seconds it has to wait. */
export type BudgetRow = {
  model: string;
  cooling_s: number;
  rpm?: Level | null;
  rpd?: Level | null;
  tpm?: Level | null;
  tpd?: Level | null;
  ipm?: Level | null;
};

/** How many entries were deleted. */
export type CacheCleared = {
  entries: number;
};

/** `result`: `hit`: its answer is kept, and upstream would not be asked; `miss`; `bypass`: it would not be looked up; `off`: there is no cache for it; `unknown`. `cause`: in plain words. */
export type CacheOutlook = {
  result: "bypass" | "hit" | "miss" | "off" | "unknown";
  cause: string;
};

/** Only what is kept of this client, of this model; neither: all. */
export type CacheQuery = {
  client?: string | null;
  model?: string | null;
};

/** What one client's requests for one model did not use this month; `other` is all beyond the first 100. */
export type CacheSavingsRow = {
  client: string;
  model: string;
  saved_requests: number;
  prompt_tokens: number;
  completion_tokens: number;
  usd: number;
  unpriced: number;
};

/** What is kept under one name. */
export type CacheShare = {
  name: string;
  entries: number;
  bytes: number;
};

/** The pool's cache. `patterns`: the option `cache.models`; empty: nothing is kept or served. `max_bytes`: the option `cache.max_size`; `evicted`, `expired`: entries that left it so far, to make room or because their time was over. `clients`, `models`: what is kept, the most bytes first. `today` and `month` are of UTC; `since`: the month's first day (ISO 8601); `saved`: the month's by client and model, the most dollars first. */
export type CacheState = {
  patterns: string[];
  entries: number;
  bytes: number;
  max_bytes: number;
  evicted: number;
  expired: number;
  clients: CacheShare[];
  models: CacheShare[];
  since: string;
  today: CacheSums;
  month: CacheSums;
  saved: CacheSavingsRow[];
};

/** What the cache did in a time. `hit`, `coalesced`, `miss`, `bypass`: requests; `saved_requests`: calls upstream that were not made; tokens and `usd`: what they would have used, at the prices of the answers that were served; `unpriced`: requests that saved something without a known price. */
export type CacheSums = {
  hit: number;
  coalesced: number;
  miss: number;
  bypass: number;
  saved_requests: number;
  prompt_tokens: number;
  completion_tokens: number;
  usd: number;
  unpriced: number;
};

/** An account that could have the request. `room`: what is left by dimension; `why_not`: "" if it can have it now; `wait_s`: until it can, null: not known or never. */
export type Candidate = {
  account: string;
  keys: number;
  room: Record<string, number>;
  why_not: string;
  wait_s: number | null;
};

/** One event of kind `operator` in /admin/events: `data` of it, decoded. `changes`: option -> [old, new]. */
export type Change = {
  actor: string;
  role: string;
  address: string;
  action: string;
  subject: string;
  changes: Record<string, unknown[]>;
};

/** `key`: the client's new key, in this answer and never again; null if it has one already. */
export type ClientAdded = {
  id: string;
  key: string | null;
};

/** Options of a client; those that are left out stay as they are, `budgets` are replaced as a whole. `max_wait`: seconds, or as in "30s"; `expires_on`: the first day (UTC) on which it is refused; `cache`: whether it is served from the cache. null: the pool's own wait, no end, no team, the time zone of `spend`, and what `cache.clients` says. */
export type ClientChange = {
  name?: string;
  limits?: LimitOptions;
  budgets?: BudgetOptions[];
  time_zone?: string | null;
  notes?: string;
  team?: string | null;
  weight?: number;
  priority?: "batch" | "high" | "normal";
  max_wait?: number | string | null;
  models?: string[];
  expires_on?: string | null;
  allowed_ips?: string[];
  on_stream_overrun?: "cut" | "finish";
  cache?: boolean | null;
  labels?: Record<string, string>;
};

/** `key` as for a new client; `old_key_until`: Unix seconds. */
export type ClientRotated = {
  id: string;
  key: string | null;
  old_key_until: number;
};

/** `overlap_s`: how long the old key is served, too. `key_hash` as for a new client. */
export type ClientRotation = {
  overlap_s?: number;
  key_hash?: string | null;
};

/** A client and its options (`max_wait` in seconds; `cache` null: as `cache.clients` says). `added`, `old_key_until`: Unix seconds; null: a configured one, no old key. `suspended`: why; null if it is served. `last_seen`: the UTC day of its last request, of 90. `rules`: its limits and budgets, and its team's. */
export type ClientRow = {
  id: string;
  source: "configuration" | "store";
  name: string;
  team: string | null;
  limits: LimitOptions;
  budgets: BudgetOptions[];
  time_zone: string | null;
  weight: number;
  priority: "batch" | "high" | "normal";
  max_wait: number | null;
  models: string[];
  expires_on: string | null;
  allowed_ips: string[];
  on_stream_overrun: "cut" | "finish";
  cache: boolean | null;
  labels: Record<string, string>;
  notes: string;
  added: number | null;
  old_key_until: number | null;
  suspended: string | null;
  last_seen: string | null;
  rules: RuleRow[];
};

export type ClientRows = {
  clients: ClientRow[];
};

/** `changed`: false if it was so before. */
export type ClientService = {
  id: string;
  suspended: boolean;
  changed: boolean;
};

/** `loaded_at`: Unix seconds; `after_restart`: options whose new value waits for a restart. */
export type Configuration = {
  loaded_at: number;
  options: OptionRow[];
  warnings: string[];
  after_restart: string[];
};

/** An account whose credit or monthly limit is known, the first to run out first. USD; times are ISO 8601 in UTC. `error_days`: how far `empty_at` may be off, from how the last days' spend varied; null: too few days, or they vary too much. */
export type CreditRow = {
  account: string;
  remaining_usd: number | null;
  per_day_usd: number;
  month_spent_usd: number;
  month_limit_usd: number | null;
  empty_at: string | null;
  error_days: number | null;
  next_expiry: string | null;
  expiring_unused_usd: number | null;
};

export type Deleted = {
  id: string;
  gone?: boolean;
};

/** A request that is not sent: what would happen to it now. `body`: as a client would send it. */
export type DryRun = {
  body: Record<string, unknown>;
  endpoint?: string;
  client?: string | null;
};

/** `verdict`: `served_now`, `waits`, `refused`; `cause`: in plain words; `reserve`: requests and tokens that it would reserve; `cache`: null if it is refused before that is asked; the candidates in the order in which they would be tried, at most 50 of each kind, none if the cache has its answer. */
export type DryRunAnswer = {
  verdict: "refused" | "served_now" | "waits";
  cause: string;
  endpoint: string;
  model: string;
  group: string;
  reserve: Record<string, number>;
  usd_at_most: number | null;
  wait_s: number | null;
  rules: string[];
  candidates: Candidate[];
  out: Candidate[];
  out_count: number;
  cache: CacheOutlook | null;
};

/** When a budget runs dry, if the pace of the last minutes stays: `minutes` from now, and the range in which that lies in four of five cases; `latest` null: the pace is so uneven that it may as well never be dry. A budget that is never dry at this pace has none. */
export type DryTime = {
  minutes: number;
  earliest: number;
  latest: number | null;
};

/** For calls that take no query, or no body: anything given there is misspelt or misplaced. */
export type Empty = {

};

export type Error = {
  error: ErrorDetails;
};

/** An error in OpenAI's format. */
export type ErrorDetails = {
  message: string;
  type: string;
  param: string | null;
  code: string;
};

/** One change of a key's (`k/...`), account's (`a/...`) or organisation's (`o/...`) state; or of another kind. */
export type Event = {
  id: string;
  at: string;
  data: Record<string, unknown>;
};

/** The newest come first; `before`: the id of an event, to continue from there. `kind`: state, brake, egress, outside_use, policy, operator…; `subject`: what it is about, as `data.field` has it: `k/alpha`, `a/acme`, `c/app`, `t/search`. */
export type EventQuery = {
  limit?: number;
  before?: string | null;
  kind?: string | null;
  subject?: string | null;
};

export type Events = {
  events: Event[];
};

/** What upstream answered, without secrets. */
export type Evidence = {
  status: number;
  message: string;
  upstream_request_id: string;
  by: string;
};

/** `cause`: one word for it. `since`: when the first of a row of requests with this cause ended; `until`: when there was to be room again; null: unknown, or never by itself. `most_used_by`: in the minute of its end and the one before, of what it was short of. `remedy`: the cheapest; "": none needed. `longest`: what took most of the time. `cache`: what the cache did for it, and why it did no more; "": there is none for such a request. `outside_use`: of accounts whose room it waited for or was refused by, and that somebody else used then. `trace_id`: of the trace that its spans are in; "": they are not kept. */
export type Explanation = {
  id: string;
  cause: string;
  summary: string;
  since: string | null;
  until: string | null;
  most_used_by: User[];
  remedy: string;
  timeline: Step[];
  longest: string;
  cache?: string;
  outside_use?: OutsideUseRow[];
  trace_id?: string;
};

/** A part of the sentence about the pool: `serving` (number, of: keys), `not_serving` (of), `dry` (name: the model, dimension, number: minutes), `dry_now` (name, dimension), `not_dry`, `credit` (name: the account, at), `queue` (number), `store_away`. */
export type Fact = {
  code: string;
  name?: string;
  dimension?: string;
  number?: number;
  of?: number;
  at?: string;
};

/** Credit that an account was granted; days are UTC. */
export type Grant = {
  usd: number;
  granted_on?: string | null;
  expires_on?: string | null;
};

/** Work that takes a while. `counts`: of `done` of `total`, by result; `not_done`: at most 1,000 of them; `problem`: why all of it ended early, "" if it did not. Jobs are kept for an hour after their end, and are of this replica. */
export type Job = {
  id: string;
  kind: "import" | "keys";
  action: string;
  total: number;
  done: number;
  finished: boolean;
  counts: Record<string, number>;
  not_done: Unfinished[];
  problem: string;
  started: number;
  by: string;
};

/** The newest come first. */
export type Jobs = {
  jobs: Job[];
};

/** `result`: added, unchanged, updated (its attributes) or replaced (its secret). */
export type KeyAdded = {
  id: string;
  result: string;
};

/** `text`: one secret a line, or CSV with a first line of names, as for `quotapool keys import`. */
export type KeyImport = {
  text: string;
  check?: boolean;
  replace?: boolean;
  dry_run?: boolean;
};

/** One key in short. `left`: the share that is left of its account's emptiest budget (0 to 1), null if it has none yet; `emptiest`: which that is, as `gpt-5 tpm`; `last_used`: ISO 8601 (UTC), the hour if it was today and is known, else the day, null if not in 90 days. `next` as in the key's own row. */
export type KeyLine = {
  id: string;
  account: string;
  state: string;
  source: "configuration" | "store";
  reason: string;
  since: number | null;
  next_try: number | null;
  cooling_s: number;
  left: number | null;
  emptiest: string;
  credit_usd: number | null;
  last_used: string | null;
  next: string;
};

export type KeyLines = {
  keys: KeyLine[];
};

/** `state`: only keys in this state. */
export type KeyQuery = {
  state?: "active" | "disabled" | "draining" | "locked" | "quarantined" | "removed" | "suspect" | null;
};

/** One key. `state`: active, suspect, quarantined, draining, disabled, removed, or locked (its master key is missing). `since` and `next_try`: Unix seconds. `next`: what to do, "" if nothing. `credit`: its account's. `cooling_s`: seconds until the first model group of its account may be used again, 0 if one may be used now. `outside_use`: by model group, of its account. */
export type KeyRow = {
  id: string;
  account: string;
  state: string;
  source: "configuration" | "store";
  next: string;
  budgets: BudgetRow[];
  organization?: string | null;
  cooling_s?: number;
  credit?: Record<string, unknown> | null;
  reason?: string | null;
  since?: number | null;
  next_try?: number | null;
  evidence?: Evidence | null;
  outside_use?: OutsideUseRow[];
};

/** The key's state after the operation. */
export type KeyState = {
  id: string;
  state: string;
};

/** Who used a key, of the last requests that are kept, the most first: client, requests, tokens, USD (of those with a known price). */
export type KeyUsers = {
  since: string | null;
  users: Record<string, unknown>[];
};

/** The same for many keys. */
export type KeyWork = {
  action: "disable" | "drain" | "enable" | "forget" | "probe" | "remove";
  ids: string[];
};

export type Keys = {
  keys: KeyRow[];
};

/** `learned`: the limit that upstream named, null if it named none. */
export type Level = {
  limit: number;
  learned: number | null;
  remaining: number;
};

/** Limits by the minute and day, and of requests at the same time; each a number, or as in "500k". null: none; those that are left out stay as they are. */
export type LimitOptions = {
  rpm?: number | string | null;
  tpm?: number | string | null;
  rpd?: number | string | null;
  tpd?: number | string | null;
  concurrent?: number | string | null;
};

/** A rule of a client (`c/<id>`) or a team (`t/<id>`), as it stood. Amounts: requests, tokens or USD. `wait_s`: null, if it never lets such a request through. */
export type LimitingRule = {
  subject: string;
  rule: string;
  limit: number;
  used: number;
  held: number;
  needed: number;
  wait_s: number | null;
};

/** Either the admin token, or the code of a one-time link. */
export type Login = {
  token?: string | null;
  code?: string | null;
};

/** What the page may offer before anybody is signed in. `oidc`: the name of the identity provider, null: none. `signed_in`: whether this browser is, so that the page need not try. */
export type LoginMethods = {
  signed_in: boolean;
  token: boolean;
  oidc: string | null;
  header: boolean;
};

/** A session of the page. `id`: not its secret; times are Unix seconds. */
export type LoginRow = {
  id: string;
  actor: string;
  role: "operator" | "viewer";
  by: string;
  address: string;
  started: number;
  expires_at: number;
  current: boolean;
};

export type LoginRows = {
  logins: LoginRow[];
};

/** Sum over the accounts that can be used. */
export type ModelRoom = {
  model: string;
  dimension: string;
  limit: number;
  remaining: number;
};

/** A client. `key_hash`: SHA-256 (hex) of a key it has already; without it, a key is created. */
export type NewClient = {
  name?: string;
  limits?: LimitOptions;
  budgets?: BudgetOptions[];
  time_zone?: string | null;
  notes?: string;
  team?: string | null;
  weight?: number;
  priority?: "batch" | "high" | "normal";
  max_wait?: number | string | null;
  models?: string[];
  expires_on?: string | null;
  allowed_ips?: string[];
  on_stream_overrun?: "cut" | "finish";
  cache?: boolean | null;
  labels?: Record<string, string>;
  id: string;
  key_hash?: string | null;
};

/** A key for the pool. The secret is kept encrypted and never shown again. `tier`, `weight` and `grants` belong to its account. `check`: ask OpenAI first (GET /v1/models). `replace`: a new secret for a stored id. */
export type NewKey = {
  secret: string;
  id?: string | null;
  account?: string | null;
  tier?: string | null;
  weight?: number | null;
  grants?: Grant[];
  check?: boolean;
  replace?: boolean;
};

/** A team, whose limits and budgets its clients share. */
export type NewTeam = {
  name?: string;
  limits?: LimitOptions;
  budgets?: BudgetOptions[];
  time_zone?: string | null;
  notes?: string;
  id: string;
};

/** `at`: Unix seconds; `sentence`: `facts` in English. `keys`: by state. `requests_per_minute`: that used something at OpenAI or were refused here, `errors_per_minute`: that were refused here; both over the last one or two minutes. `attention` and `credit` have at most 50 rows, `outside_use` 100. */
export type Now = {
  at: number;
  pool: string;
  version: string;
  sentence: string;
  facts: Fact[];
  keys: Record<string, number>;
  usable_keys: number;
  accounts: number;
  attention: Attention[];
  room: RoomRow[];
  waiting: WaitingRow[];
  credit: CreditRow[];
  outside_use: OutsideUseRow[];
  requests_per_minute: number;
  errors_per_minute: number;
  spent_today_usd: number;
  daily_limit_usd: number | null;
};

/** Who is calling. `by`: how that is known; `expires_at`: Unix seconds, null for a token or a header. `csrf`: to be sent as X-Quotapool-CSRF with each change; "" if none is needed. */
export type OperatorSession = {
  actor: string;
  role: "operator" | "viewer";
  by: "header" | "link" | "oidc" | "token";
  expires_at: number | null;
  csrf: string;
  pool: string;
  version: string;
};

/** One value in force. `option`: dotted; `value`: as text, secrets as stars; `source`: `quotapool.yaml:12`, an environment variable, the command line, `store` or `default`; `default`: as text, null if there is none. */
export type OptionRow = {
  option: string;
  value: string;
  source: string;
  default: string | null;
};

/** Somebody uses an account for models of a group (`model`) without the pool. `since`: when the evidence began, `named`: when that was told (Unix seconds). The rates are of the others alone, 0: not known; `usd_per_hour`: what that costs at most, if it is like the pool's own use; null: no price is known. `key`: the account's only key, "": it has several. `drained`: it was taken out of service for this. */
export type OutsideUseRow = {
  account: string;
  model: string;
  since: number;
  requests_per_minute: number;
  tokens_per_minute: number;
  key: string;
  usd_per_hour: number | null;
  named: number;
  drained: boolean;
};

/** The pool in short. `problem`: why stored keys are missing, "" if none is. */
export type PoolRow = {
  pool: string;
  version: string;
  keys: Record<string, number>;
  accounts: number;
  usable_keys: number;
  room: ModelRoom[];
  problem: string;
};

/** Upstream's answer about the key now; `valid` means nothing for its credit. `next`: what to do. */
export type ProbeResult = {
  id: string;
  valid: boolean;
  answer: string;
  detail: string;
  next: string;
};

/** One organisation's (or project's) month: our books beside OpenAI's own costs; USD. */
export type ReconcileRow = {
  name: string;
  ours_usd: number;
  theirs_usd: number | null;
  difference_usd: number | null;
  problem: string;
};

/** `problem`: why there is nothing to compare, "" if there is. */
export type Reconciliation = {
  month: string;
  rows: ReconcileRow[];
  problem: string;
};

/** `forget`: delete a stored key with its secret. */
export type RemoveKey = {
  forget?: boolean;
};

/** Only those of this client, that tried this key, for this model, with this code (the proxy's own, or the reason of an attempt). `errors`: only those that were refused, failed or cut; `waited`: that waited in the queue; `retried`: with more than one attempt; `cache`: for which the cache did this. The newest `limit` of those that are all of this. */
export type RequestQuery = {
  limit?: number;
  client?: string | null;
  key?: string | null;
  model?: string | null;
  code?: string | null;
  errors?: boolean;
  waited?: boolean;
  retried?: boolean;
  cache?: "bypass" | "coalesced" | "hit" | "miss" | null;
};

/** One request. `time`: of its arrival, ISO 8601 in UTC; `queue_ms`, `ttfb_ms` (to the first byte), `total_ms` and `overhead_ms` are as in its log line. `usd`: null if its price is not known; `certainty`: of the tokens. `source`: whose answer it was: `upstream`, `proxy` or `cache`. `cache`: `hit`, `miss`, `coalesced` or `bypass`; "" if there is none for it; `kept`: why a miss was not kept, or a bypass not looked up. `asked_for`: null if it never asked for room, or an older version kept it. `trace_id`: of the trace that its spans are in; "": they are not kept. */
export type RequestRow = {
  id: string;
  time: string;
  client: string;
  endpoint: string;
  model: string;
  status: number;
  code: string;
  rules: string[];
  streamed: boolean;
  cut: boolean;
  source: string;
  attempts: AttemptRow[];
  waited_for: WaitedForRow | null;
  queue_ms: number;
  ttfb_ms: number | null;
  total_ms: number;
  overhead_ms: number;
  prompt_tokens: number;
  cached_tokens: number;
  completion_tokens: number;
  certainty: string;
  usd: number | null;
  cache: string;
  kept: string;
  saved: SavedRow | null;
  asked_for: AskedForRow | null;
  trace_id: string;
};

/** The newest come first. */
export type RequestRows = {
  requests: RequestRow[];
};

/** What all accounts that can be used have left together, for one model group in one dimension (rpm, tpm, rpd, tpd, ipm). `used_per_minute`: by all replicas, over the last five minutes; `refill_per_minute`: what the limits give back; `accounts`: that have this budget; `cooling`: how many of them wait. */
export type RoomRow = {
  model: string;
  dimension: string;
  limit: number;
  remaining: number;
  used_per_minute: number;
  refill_per_minute: number;
  accounts: number;
  cooling: number;
  dry: DryTime | null;
};

/** A limit or budget and how it stands. `subject`: whose it is, `client app` or `team red`. Figures in `unit`, USD as decimal numbers; `held`: by requests under way. `resets_at`: when all of it is there again, Unix seconds; null: there is nothing to wait for, or it never does. */
export type RuleRow = {
  id: string;
  words: string;
  subject: string;
  unit: string;
  mode: string;
  limit: number;
  used: number;
  held: number;
  left: number;
  resets_at: number | null;
};

/** `model`: only of this model group. */
export type SampleQuery = {
  model?: string | null;
  minutes?: number;
};

/** One model group in one dimension. `used`: in the minute before each time; null: not known. */
export type SampleSeries = {
  model: string;
  dimension: string;
  remaining: (number | null)[];
  limit: (number | null)[];
  used: (number | null)[];
};

/** The last hour, a sample every `every_s` seconds. `at`: Unix seconds, the oldest first; each other list is as long. `waiting`: in the queues of all replicas. */
export type Samples = {
  every_s: number;
  at: number[];
  waiting: (number | null)[];
  series: SampleSeries[];
};

/** What the cache saved: calls upstream, tokens, and what they would have cost. `usd`: null if no price is known. */
export type SavedRow = {
  requests: number;
  prompt_tokens: number;
  completion_tokens: number;
  usd: number | null;
};

/** What clients were spared since the beginning of the month (`since`, ISO 8601). `rescued`: requests that were served after an attempt failed, by what had failed first: `rate_limit`, `money`, `key`, `network`, `server`; `queued`: served after a wait instead of a refusal (it may be among the rescued, too); `cached_usd`: what upstream's own prompt cache saved: the month's cached tokens by model, at today's prices for short prompts of text; `pool_cache`, `pool_cache_today`: what the pool's own cache did and saved this month, and today (UTC). */
export type Savings = {
  since: string;
  rescued: Record<string, number>;
  queued: number;
  cached_tokens: number;
  cached_usd: number;
  pool_cache: CacheSums;
  pool_cache_today: CacheSums;
};

/** `at_ms`: after the arrival; null: between its neighbours, no exact time is kept. */
export type Step = {
  at_ms: number | null;
  text: string;
};

export type SuspendClient = {
  reason?: string;
};

/** Options of a team; those that are left out stay as they are, `budgets` are replaced as a whole. */
export type TeamChange = {
  name?: string;
  limits?: LimitOptions;
  budgets?: BudgetOptions[];
  time_zone?: string | null;
  notes?: string;
};

/** A team, its options and its clients. `added`: Unix seconds; null: a configured one. */
export type TeamRow = {
  id: string;
  source: "configuration" | "store";
  name: string;
  limits: LimitOptions;
  budgets: BudgetOptions[];
  time_zone: string | null;
  notes: string;
  added: number | null;
  clients: string[];
  rules: RuleRow[];
};

export type TeamRows = {
  teams: TeamRow[];
};

/** Credit that was bought; days are UTC. `granted_on`: today, unless given. */
export type TopUp = {
  usd: number;
  granted_on?: string | null;
  expires_on?: string | null;
};

/** What was not done: `line` of the import, 0 otherwise; `id` of the key, "" if it has none. */
export type Unfinished = {
  line: number;
  id: string;
  result: string;
  why: string;
};

/** As the options of `quotapool usage`. `since`, `until`: 2026-11-01, 15:00, 2026-11-01T15:00, 90m, 24h, 7d or month. `every`: a row for each step of time, else one for all. `only`: rows whose first name is this one; `top`: of so many names, those that cost most, the others in one row `other`. */
export type UsageQuery = {
  by?: "account" | "account,day" | "account,model" | "client" | "client,day" | "client,model" | "day" | "key" | "key,day" | "key,model" | "model" | "model,day" | "pool";
  since?: string;
  until?: string | null;
  every?: "1d" | "1h" | "1m" | "5m" | null;
  only?: string | null;
  top?: number | null;
};

/** What one name used, with what it was asked by; `from`: the beginning of a step of time. */
export type UsageRow = {
  usd: number;
  exact_usd: number;
  estimated_usd: number;
  probe_usd: number;
  unpriced_requests: number;
  requests: number;
  prompt_tokens: number;
  cached_tokens: number;
  completion_tokens: number;
  refused_requests: number | null;
  refusals: Record<string, number> | null;
  from?: string;
  day?: string;
  account?: string;
  key?: string;
  model?: string;
  client?: string;
};

/** Times are ISO 8601 with an offset; `until` is not included. `not_seen`: what costs money and is in no row. `only`, `top`: if they were given. */
export type UsageRows = {
  by: string;
  since: string;
  until: string;
  every: string | null;
  time_zone: string;
  rows: UsageRow[];
  total: UsageSums;
  month_to_date_usd: number;
  unpriced: string[];
  price_data: string[];
  not_seen: string[];
  only?: string;
  top?: number;
};

/** `usd` is the sum of the next three; `refusals`: refused requests by error code and rules, null if rows are by model, account or key alone. */
export type UsageSums = {
  usd: number;
  exact_usd: number;
  estimated_usd: number;
  probe_usd: number;
  unpriced_requests: number;
  requests: number;
  prompt_tokens: number;
  cached_tokens: number;
  completion_tokens: number;
  refused_requests: number | null;
  refusals: Record<string, number> | null;
};

/** What a client used in the minutes that are looked at. `model`: "" for all of them. */
export type User = {
  client: string;
  model: string;
  requests: number;
  tokens: number;
};

/** What a request waited for, or was refused by: room of `dimension` for a model `group`, `account` having it first; or `rules` of its client. `reason`: why it was refused; `wait_s`: until there was room, null: never. */
export type WaitedForRow = {
  group: string;
  dimension: string;
  account: string;
  reason: string;
  wait_s: number | null;
  rules: LimitingRule[];
};

/** Requests in the queues of all replicas that wait for the same. `rule`: of the client, "" if for the pool's room; `longest_s`: how long the first of them has waited. */
export type WaitingRow = {
  model: string;
  dimension: string;
  client: string;
  rule: string;
  waiting: number;
  longest_s: number;
};

/** The minutes before and around a refusal, Unix seconds, and who used what in them, the largest first. */
export type Window = {
  since: number;
  until: number;
  users: User[];
};

/** What clients and teams have alike. */
export type _Change = {
  name?: string;
  limits?: LimitOptions;
  budgets?: BudgetOptions[];
  time_zone?: string | null;
  notes?: string;
};
