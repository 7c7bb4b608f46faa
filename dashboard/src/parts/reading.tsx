// What was read from the admin API: its error while there is one, and the data, also an older one.

import type { ComponentChildren } from "preact";
import type { Loaded } from "../load";
import { Failed, Loading } from "./bits";

export function Read<T>({ of: { data, error, again }, children }: { of: Loaded<T>; children: (data: T) => ComponentChildren }) {
  return (
    <>
      {error !== null && <Failed error={error} again={again} />}
      {data !== null ? children(data) : error === null && <Loading />}
    </>
  );
}
