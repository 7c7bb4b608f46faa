import { Loading } from "../parts/bits";

export function Configuration() {
  return <Loading />;
}
