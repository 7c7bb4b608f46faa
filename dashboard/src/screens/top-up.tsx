// Credit that was bought for an account is recorded, so that what is left of it is known, and its keys are tried again.

import { useState } from "preact/hooks";
import { path, post } from "../api";
import { Field } from "../parts/bits";
import { Question } from "../parts/dialog";
import type { AccountRow } from "../shapes";
import { t } from "../words";

export function TopUpQuestion({ account, onClose, onDone }: { account: string; onClose: () => void; onDone?: (row: AccountRow) => void }) {
  const [usd, setUsd] = useState("");
  const [granted, setGranted] = useState("");
  const [expires, setExpires] = useState("");
  const record = async () => {
    const row = await post<AccountRow>(path("/accounts", account, "topup"), {
      usd: Number(usd),
      ...(granted ? { granted_on: granted } : {}),
      ...(expires ? { expires_on: expires } : {}),
    });
    onDone?.(row);
  };
  return (
    <Question title={t("topup-title", { account })} verb={t("topup-verb")} onYes={record} onClose={onClose}>
      <p class="muted">{t("topup-about")}</p>
      <Field label={t("topup-usd")} value={usd} onInput={setUsd} type="number" required />
      <Field label={t("granted-on")} value={granted} onInput={setGranted} type="date" hint={t("granted-on-hint")} />
      <Field label={t("expires-on")} value={expires} onInput={setExpires} type="date" hint={t("expires-on-hint")} />
    </Question>
  );
}
