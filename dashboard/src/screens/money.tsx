import { Loading } from "../parts/bits";

export function Money() {
  return <Loading />;
}
