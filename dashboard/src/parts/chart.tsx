// Lines or stacked areas over time, and the same figures as a table for those who cannot see them.

import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import { moment } from "../format";
import { locale, t } from "../words";
import { ShortTable } from "./short-table";

export interface Line {
  name: string;
  values: (number | null)[];
  /** Number of its colour (0 to 7), or a colour of the style: `limit` is drawn as a dashed line. */
  colour: number | "limit";
  fill?: boolean;
}

const COLOURS = 8;
const LEFT = 56; // pixels for the names of the axes
const FOOT = 22;
const LABEL = 26; // half the width of a time
const SPANS = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800, 1_209_600, 2_592_000];

const colour = (of: number | "limit"): string => (of === "limit" ? "var(--muted)" : `var(--series-${of % COLOURS})`);

/** Adds up what is above each other, where lines are to be stacked. */
function stacked(lines: Line[]): (number | null)[][] {
  const sums = new Array<number>(lines[0]?.values.length ?? 0).fill(0);
  return lines.map((line) => line.values.map((value, n) => (sums[n] = (sums[n] ?? 0) + (value ?? 0))));
}

/** About four steps up to `top`, of 1, 2 or 5 times a power of ten. */
export function levels(top: number): number[] {
  const power = 10 ** Math.floor(Math.log10(top / 4));
  const step = ([1, 2, 5].find((n) => n * power >= top / 4) ?? 10) * power;
  return Array.from({ length: Math.floor(top / step) + 1 }, (_, n) => n * step);
}

/** Moments for the names of the axis, at most so many, at whole steps of local time. */
export function ticks(first: number, last: number, most: number): number[] {
  const span = SPANS.find((one) => (last - first) / one <= most) ?? Math.max(1, last - first);
  const zone = new Date(first * 1_000).getTimezoneOffset() * 60;
  const from = Math.ceil((first - zone) / span) * span + zone;
  return Array.from({ length: Math.max(0, Math.floor((last - from) / span) + 1) }, (_, n) => from + n * span);
}

/** An SVG path through the values, with a gap where there is none; with `base`, areas down to there. */
export function pathOf(values: (number | null)[], x: (n: number) => number, y: (value: number) => number, base?: number): string {
  let path = "";
  let begun = -1;
  values.forEach((value, n) => {
    if (value === null) return (begun = -1);
    const at = `${x(n).toFixed(1)},${y(value).toFixed(1)}`;
    const isLast = (values[n + 1] ?? null) === null;
    if (begun < 0) begun = n;
    if (base === undefined) path += `${begun === n ? "M" : "L"}${at}`;
    else path += `${begun === n ? `M${x(n).toFixed(1)},${base}L` : "L"}${at}${isLast ? `L${x(n).toFixed(1)},${base}Z` : ""}`;
    return n;
  });
  return path;
}

export function Chart({ at, lines, label, show, height = 180, stack = false, onBrush }: {
  /** Unix seconds. */
  at: number[];
  lines: Line[];
  /** Says in words what is shown. */
  label: string;
  show: (value: number | null) => string;
  height?: number;
  stack?: boolean;
  /** A span was marked with the mouse; Unix seconds. */
  onBrush?: (since: number, until: number) => void;
}) {
  const box = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(0);
  const [hover, setHover] = useState(-1);
  const [from, setFrom] = useState(-1); // where marking began
  useEffect(() => {
    const watch = new ResizeObserver(([entry]) => setWidth(entry?.contentRect.width ?? 0));
    if (box.current) watch.observe(box.current);
    return () => watch.disconnect();
  }, []);
  const first = at[0] ?? 0;
  const span = Math.max(1, (at[at.length - 1] ?? 0) - first);
  const room = Math.max(1, width - LEFT - 4);
  const ground = height - FOOT;
  const across = (moment: number) => LEFT + ((moment - first) / span) * room;
  const x = (n: number) => across(at[n] ?? first);
  const drawn = useMemo(() => {
    if (!width) return null;
    const values = stack ? stacked(lines) : lines.map((line) => line.values);
    const top = values.reduce((most, of) => of.reduce<number>((high, value) => Math.max(high, value ?? 0), most), 0) * 1.05 || 1;
    const y = (value: number) => ground - (value / top) * (ground - 6);
    const order = [...lines.keys()];
    if (stack) order.reverse(); // the highest area is drawn first
    return (
      <>
        {levels(top).map((level) => (
          <g key={level}>
            <line class="grid" x1={LEFT} x2={width} y1={y(level)} y2={y(level)} />
            <text x={LEFT - 6} y={y(level) + 4} text-anchor="end">{show(level)}</text>
          </g>
        ))}
        {ticks(first, first + span, Math.max(2, room / 90)).map((tick, _, all) => (
          <g key={tick}>
            <line class="grid" x1={across(tick)} x2={across(tick)} y1={ground} y2={ground + 4} />
            <text x={Math.max(LEFT + 8, Math.min(width - LABEL, across(tick)))} y={height - 4} text-anchor="middle">{axisTime(tick, all)}</text>
          </g>
        ))}
        {order.map((n) => {
          const { colour: of, fill } = lines[n]!;
          const under = stack ? "var(--panel)" : "transparent"; // stacked areas lie above each other
          return (
            <g key={n}>
              {(fill || stack) && <path d={pathOf(values[n]!, x, y, ground)} fill={`color-mix(in srgb, ${colour(of)} ${stack ? 55 : 18}%, ${under})`} />}
              <path d={pathOf(values[n]!, x, y)} fill="none" stroke={colour(of)} stroke-width={of === "limit" ? 1 : 1.5} {...(of === "limit" && !stack ? { "stroke-dasharray": "4" } : {})} />
            </g>
          );
        })}
      </>
    );
  }, [at, lines, width, height, stack, show, locale()]);
  const nearest = (event: PointerEvent) => {
    const moment = first + ((event.clientX - (box.current?.getBoundingClientRect().left ?? 0) - LEFT) / room) * span;
    const n = at.findIndex((one) => one >= moment);
    return n < 0 ? at.length - 1 : n > 0 && moment - at[n - 1]! < at[n]! - moment ? n - 1 : n;
  };
  const mark = () => {
    if (from >= 0 && Math.abs(x(hover) - x(from)) > 4) onBrush?.(at[Math.min(from, hover)]!, at[Math.max(from, hover)]!);
    setFrom(-1);
  };
  return (
    <figure class="chart">
      <div ref={box} style={{ height: `${height}px` }} aria-hidden="true"
        onPointerMove={(event) => setHover(nearest(event))} onPointerLeave={() => { setHover(-1); setFrom(-1); }}
        onPointerDown={(event) => { if (onBrush) setFrom(nearest(event)); }} onPointerUp={mark}>
        <svg width="100%" height={height}>
          {drawn}
          {hover >= 0 && <line class="cursor" x1={x(hover)} x2={x(hover)} y1={0} y2={ground} />}
          {from >= 0 && hover >= 0 && <rect class="marked" x={Math.min(x(from), x(hover))} y={0} width={Math.abs(x(hover) - x(from))} height={ground} />}
        </svg>
      </div>
      <figcaption>
        <ul class="legend">
          {lines.map((line) => (
            <li key={line.name}>
              <i class={`swatch series-${line.colour}`} />
              {line.name} {hover >= 0 && <strong>{show(line.values[hover] ?? null)}</strong>}
            </li>
          ))}
          {hover >= 0 && <li>{moment(at[hover])}</li>}
        </ul>
        <details>
          <summary>{t("as-table")}</summary>
          <Figures at={at} lines={lines} label={label} show={show} />
        </details>
      </figcaption>
    </figure>
  );
}

/** The day, where steps are days or one begins; seconds, where steps are shorter than a minute. */
function axisTime(tick: number, ticks: number[]): string {
  const at = new Date(tick * 1_000);
  const step = (ticks[1] ?? tick + 1) - (ticks[0] ?? tick);
  const isDay = step >= 86_400 || (step >= 3_600 && at.getHours() + at.getMinutes() === 0);
  const options: Intl.DateTimeFormatOptions = isDay
    ? { month: "short", day: "numeric" }
    : { hour: "2-digit", minute: "2-digit", hourCycle: "h23", ...(step < 60 ? { second: "2-digit" } : {}) };
  return new Intl.DateTimeFormat(locale(), options).format(at);
}

/** At most 30 moments of them, evenly chosen. */
function Figures({ at, lines, label, show }: { at: number[]; lines: Line[]; label: string; show: (value: number | null) => string }) {
  const step = Math.max(1, Math.ceil(at.length / 30));
  const chosen = at.map((_, n) => n).filter((n) => (at.length - 1 - n) % step === 0);
  return (
    <ShortTable bare title={label} numbers={1} heads={[t("time"), ...lines.map((line) => line.name)]}
      rows={chosen.map((n) => [moment(at[n]), ...lines.map((line) => show(line.values[n] ?? null))])} />
  );
}
