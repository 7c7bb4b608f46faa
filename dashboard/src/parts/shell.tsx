// The frame of the page: where one can go, who is signed in, language and light; in it the screen of the moment.

import type { ComponentType } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { session, signOut } from "../api";
import { connected, now } from "../live";
import { link, place, SCREENS, toMain, type Screen } from "../place";
import { Advice } from "../screens/advice";
import { Clients } from "../screens/clients";
import { Configuration } from "../screens/configuration";
import { Events } from "../screens/events";
import { Keys } from "../screens/keys";
import { Login } from "../screens/login";
import { Money } from "../screens/money";
import { Now } from "../screens/now";
import { Requests } from "../screens/requests";
import { Usage } from "../screens/usage";
import { setTheme, theme, type Theme } from "../theme";
import { useValue } from "../value";
import { language, setLanguage, t, type Language } from "../words";
import { Loading } from "./bits";

const OF: Record<Screen, ComponentType> = {
  now: Now, requests: Requests, usage: Usage, keys: Keys, clients: Clients, money: Money, advice: Advice, events: Events, configuration: Configuration,
};

export function App() {
  const who = useValue(session);
  const chosen = useValue(language);
  const { screen } = useValue(place);
  useEffect(() => {
    document.documentElement.lang = chosen === "zh" ? "zh-CN" : "en";
    document.title = who ? `${t(`screen.${screen}`)} · Quotapool` : "Quotapool";
  }, [chosen, screen, who]);
  const shown = useRef(screen);
  useEffect(() => {
    // What had the focus may be gone with the screen before: a row whose drawer led here.
    if (shown.current !== screen && document.activeElement === document.body) toMain();
    shown.current = screen;
  }, [screen]);
  if (who === undefined) return <Loading />;
  if (who === null) return <Login />;
  const Shown = OF[screen];
  return (
    <>
      <a class="skip" href="#main" onClick={(event) => { event.preventDefault(); toMain(); }}>
        {t("skip")}
      </a>
      <Side screen={screen} actor={who.actor} role={who.role} pool={who.pool} version={who.version} />
      <main id="main" tabIndex={-1} key={chosen}>
        <Shown />
      </main>
    </>
  );
}

function Side({ screen, actor, role, pool, version }: { screen: Screen; actor: string; role: "viewer" | "operator"; pool: string; version: string }) {
  const isConnected = useValue(connected);
  const [isOpen, setOpen] = useState(false); // its foot, where the page is narrow
  const list = useRef<HTMLUListElement>(null);
  useEffect(() => {
    list.current?.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
    setOpen(false);
  }, [screen]);
  const attention = useValue(now)?.attention.filter((one) => one.severity !== "info").length ?? 0;
  return (
    <div class={`side ${isOpen ? "open" : ""}`}>
      <header>
        <a class="brand" href={link("now")}>
          Quotapool
        </a>
        <span class="pool" title={t("pool")}>{pool}</span>
        <span class={`live ${isConnected ? "on" : ""}`} role="status">
          {isConnected ? t("live") : t("not-live")}
        </span>
        <button type="button" class="menu" aria-expanded={isOpen} onClick={() => setOpen(!isOpen)}>
          {t("menu")}
        </button>
      </header>
      <nav aria-label={t("screens")}>
        <ul ref={list} onFocusCapture={(event) => (event.target as Element).scrollIntoView({ block: "nearest", inline: "nearest" })}>
          {SCREENS.map((one) => (
            <li key={one}>
              <a href={link(one)} {...(one === screen ? { "aria-current": "page" as const } : {})}>
                {t(`screen.${one}`)}
                {one === "now" && attention > 0 && <span class="number-of" title={t("attention-n", { n: attention })}>{attention}</span>}
              </a>
            </li>
          ))}
        </ul>
      </nav>
      <footer>
        <p>
          {actor} · {t(`role.${role}`)} <br />
          <small>{version}</small>
        </p>
        <Looks />
        <button type="button" class="link" onClick={() => void signOut()}>
          {t("sign-out")}
        </button>
      </footer>
    </div>
  );
}

export function Looks() {
  const look = useValue(theme);
  const chosen = useValue(language);
  return (
    <div class="looks">
      <label>
        <span>{t("light")}</span>
        <select value={look} onChange={(event) => setTheme(event.currentTarget.value as Theme)}>
          <option value="auto">{t("light.auto")}</option>
          <option value="light">{t("light.light")}</option>
          <option value="dark">{t("light.dark")}</option>
        </select>
      </label>
      <label>
        <span>{t("language")}</span>
        <select value={chosen} onChange={(event) => void setLanguage(event.currentTarget.value as Language)}>
          <option value="en" lang="en">English</option>
          <option value="zh" lang="zh-CN">简体中文</option>
        </select>
      </label>
    </div>
  );
}
