// Lines or stacked areas over time, and the same figures as a table for those who cannot see them.

import { useEffect, useMemo, useRef } from "preact/hooks";
import uPlot from "uplot";
import { locale, t } from "../words";
import { theme } from "../theme";
import { useValue } from "../value";
import { moment } from "../format";

export interface Line {
  name: string;
  values: (number | null)[];
  /** Number of its colour (0 to 7), or a colour of the style: `limit` is drawn as a dashed line. */
  colour: number | "limit";
  fill?: boolean;
}

const COLOURS = 8;

/** A colour of the style as a canvas takes it. */
function colour(element: HTMLElement, of: number | "limit" | "line" | "panel"): string {
  const name = of === "limit" ? "--muted" : typeof of === "string" ? `--${of}` : `--series-${of % COLOURS}`;
  element.style.color = `var(${name})`;
  return getComputedStyle(element).color;
}

/** Adds up what is above each other, where lines are to be stacked. */
function stacked(lines: Line[]): (number | null)[][] {
  const sums = new Array<number>(lines[0]?.values.length ?? 0).fill(0);
  return lines.map((line) => line.values.map((value, n) => (sums[n] = (sums[n] ?? 0) + (value ?? 0))));
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
  const plot = useRef<uPlot | null>(null);
  const brush = useRef(onBrush);
  brush.current = onBrush;
  const look = useValue(theme);
  const values = useMemo(() => (stack ? stacked(lines) : lines.map((line) => line.values)), [lines, stack]);
  const shape = lines.map((line) => `${line.name}:${line.colour}`).join("|");
  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const grid = { stroke: colour(element, "limit"), grid: { stroke: colour(element, "line"), width: 1 } };
    const ground = stack ? colour(element, "panel") : "transparent"; // stacked areas lie above each other
    const order = stack ? [...lines.keys()].reverse() : [...lines.keys()]; // the highest area is drawn first
    const chart = new uPlot(
      {
        width: element.clientWidth,
        height,
        legend: { show: false },
        cursor: { drag: { x: onBrush !== undefined, y: false, setScale: false } },
        scales: { y: { range: (_, low, high) => [Math.min(0, low ?? 0), high > 0 ? high * 1.05 : 1] } },
        axes: [
          { ...grid, ticks: { show: false }, values: (_, ticks) => ticks.map((tick) => axisTime(tick, ticks)) },
          { ...grid, ticks: { show: false }, size: 56, values: (_, ticks) => ticks.map((tick) => show(tick)) },
        ],
        series: [
          {},
          ...order.map((n): uPlot.Series => {
            const line = lines[n]!;
            const stroke = colour(element, line.colour);
            return {
              label: line.name, stroke, width: line.colour === "limit" ? 1 : 1.5, points: { show: false }, spanGaps: false,
              ...(line.colour === "limit" ? { dash: [4, 4] } : {}),
              ...(line.fill || stack ? { fill: `color-mix(in srgb, ${stroke} ${stack ? 55 : 18}%, ${ground})` } : {}),
            };
          }),
        ],
        hooks: {
          setSelect: [
            (u) => {
              if (u.select.width > 4) brush.current?.(u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x"));
              u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
            },
          ],
        },
      },
      [at, ...order.map((n) => values[n] ?? [])] as uPlot.AlignedData,
      element,
    );
    plot.current = chart;
    const watch = new ResizeObserver(() => chart.setSize({ width: element.clientWidth, height }));
    watch.observe(element);
    return () => {
      watch.disconnect();
      chart.destroy();
      plot.current = null;
    };
  }, [shape, stack, height, look, locale(), onBrush !== undefined]);
  useEffect(() => {
    const rows = stack ? [...values].reverse() : values;
    plot.current?.setData([at, ...rows] as uPlot.AlignedData);
  }, [at, values]);
  return (
    <figure class="chart">
      <div ref={box} style={{ height: `${height}px` }} aria-hidden="true" />
      <figcaption>
        <ul class="legend">
          {lines.map((line) => (
            <li key={line.name}>
              <i class={`swatch series-${line.colour}`} />
              {line.name}
            </li>
          ))}
        </ul>
        <details>
          <summary>{t("as-table")}</summary>
          <Figures at={at} lines={lines} label={label} show={show} />
        </details>
      </figcaption>
    </figure>
  );
}

function axisTime(tick: number, ticks: number[]): string {
  const span = (ticks[ticks.length - 1] ?? tick) - (ticks[0] ?? tick);
  const options: Intl.DateTimeFormatOptions =
    span >= 2 * 86_400 ? { month: "short", day: "numeric" } : { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  return new Intl.DateTimeFormat(locale(), options).format(new Date(tick * 1_000));
}

/** At most 30 moments of them, evenly chosen. */
function Figures({ at, lines, label, show }: { at: number[]; lines: Line[]; label: string; show: (value: number | null) => string }) {
  const step = Math.max(1, Math.ceil(at.length / 30));
  const chosen = at.map((_, n) => n).filter((n) => (at.length - 1 - n) % step === 0);
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={label}>
      <table>
        <caption>{label}</caption>
        <thead>
          <tr>
            <th scope="col">{t("time")}</th>
            {lines.map((line) => (
              <th key={line.name} scope="col" class="number">
                {line.name}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {chosen.map((n) => (
            <tr key={at[n]}>
              <th scope="row">{moment(at[n] ?? null)}</th>
              {lines.map((line) => (
                <td key={line.name} class="number">
                  {show(line.values[n] ?? null)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
