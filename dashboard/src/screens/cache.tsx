// What the pool's own cache did and saved, today and this month; nothing while there is none.

import * as format from "../format";
import { useLoaded } from "../load";
import { Panel } from "../parts/bits";
import { Sums } from "../parts/facts";
import { link } from "../place";
import type { CacheSums, Savings } from "../shapes";
import { t } from "../words";

const served = ({ hit, coalesced }: CacheSums) => hit + coalesced;
const asked = (sums: CacheSums) => served(sums) + sums.miss;

export function CachePanel() {
  const { data } = useLoaded<Savings>("/savings", 60);
  if (!data || !(asked(data.pool_cache) + data.pool_cache.bypass)) return null;
  const { pool_cache_today: today, pool_cache: month } = data;
  return (
    <Panel title={t("cache")} aside={<a href={link("requests", { cache: "hit" })}>{t("requests")}</a>}>
      <Sums of={[
        [t("cache-served-today"), format.count(served(today))],
        [t("cache-share-today"), format.share(served(today) / (asked(today) || 1))],
        [t("cache-saved-today"), format.usd(today.usd)],
        [t("cache-served-month"), format.count(served(month))],
        [t("cache-saved-month"), format.usd(month.usd)],
      ]} />
    </Panel>
  );
}
