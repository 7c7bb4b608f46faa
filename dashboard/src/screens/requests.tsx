import { Loading } from "../parts/bits";

export function Requests() {
  return <Loading />;
}
