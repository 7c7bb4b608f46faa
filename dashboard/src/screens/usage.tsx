import { Loading } from "../parts/bits";

export function Usage() {
  return <Loading />;
}
