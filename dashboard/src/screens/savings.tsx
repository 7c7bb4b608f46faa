// What clients were spared this month: requests that were rescued, and what OpenAI's cache saved.

import * as format from "../format";
import { useLoaded } from "../load";
import { Panel } from "../parts/bits";
import { Sums } from "../parts/facts";
import { Read } from "../parts/reading";
import type { Savings } from "../shapes";
import { t } from "../words";

export const SavingsPanel = () => (
  <Panel title={t("savings")}>
    <Read of={useLoaded<Savings>("/savings", 60)}>
      {({ since, rescued, queued, cached_tokens, cached_usd }) => {
        const of = (...causes: string[]) => causes.reduce((sum, cause) => sum + (rescued[cause] ?? 0), 0);
        return (
          <>
            <p class="lead">{t("savings-of", { since: format.day(since), n: format.whole(of(...Object.keys(rescued))), queued: format.whole(queued), usd: format.usd(cached_usd) })}</p>
            <Sums of={[
              [t("rescued-429"), format.count(of("rate_limit"))],
              [t("rescued-keys"), format.count(of("money", "key"))],
              [t("rescued-errors"), format.count(of("network", "server"))],
              [t("rescued-queued"), format.count(queued)],
              [t("cached"), format.count(cached_tokens)],
              [t("cached-usd"), format.usd(cached_usd)],
            ]} />
          </>
        );
      }}
    </Read>
  </Panel>
);
