import { Loading } from "../parts/bits";

export function Events() {
  return <Loading />;
}
