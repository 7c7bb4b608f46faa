import { Loading } from "../parts/bits";

export function Clients() {
  return <Loading />;
}
