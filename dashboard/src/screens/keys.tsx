import { Loading } from "../parts/bits";

export function Keys() {
  return <Loading />;
}
