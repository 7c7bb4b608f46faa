// Dialogs: the drawer with details of one thing, and the question before something that cannot be undone easily.

import type { ComponentChildren } from "preact";
import { useLayoutEffect, useRef } from "preact/hooks";
import { toMain } from "../place";
import { t } from "../words";
import { Button } from "./bits";

/** Keeps the focus inside, closes with Escape, and gives the focus back: the browser does all of it. */
export function Dialog({ title, onClose, children, kind }: {
  title: string; onClose: () => void; children: ComponentChildren; kind: "drawer" | "question";
}) {
  const dialog = useRef<HTMLDialogElement>(null);
  const gone = useRef(false);
  // Not useEffect: what that does at the end is done when the dialog is out of the page already.
  useLayoutEffect(() => {
    dialog.current?.showModal();
    return () => {
      gone.current = true; // it was not the reader who closed it
      dialog.current?.close(); // gives the focus back, which taking it out of the page does not
      const at = document.activeElement;
      if (at === document.body || dialog.current?.contains(at)) toMain({ preventScroll: true }); // what opened it is gone
    };
  }, []);
  return (
    <dialog
      ref={dialog}
      class={kind}
      aria-label={title}
      onClose={() => gone.current || onClose()}
      onClick={(event) => event.target === event.currentTarget && event.currentTarget.close()}
    >
      <div class="inside">
        <header>
          <h2>{title}</h2>
          <button type="button" class="close" aria-label={t("close")} onClick={() => dialog.current?.close()}>
            ×
          </button>
        </header>
        <div class="content">{children}</div>
      </div>
    </dialog>
  );
}

export function Question({ title, children, verb, danger = false, disabled = false, onYes, onClose }: {
  title: string; children?: ComponentChildren; verb: string; danger?: boolean; disabled?: boolean; onYes: () => unknown; onClose: () => void;
}) {
  const verbs = useRef<HTMLDivElement>(null);
  const yes = async () => {
    await onYes();
    onClose();
  };
  // As in a form, which could not say beside its button what failed. An Enter that ends the composing of a word is no yes.
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Enter" && !event.isComposing && event.target instanceof HTMLInputElement) verbs.current?.querySelector("button")?.click();
  };
  return (
    <Dialog kind="question" title={title} onClose={onClose}>
      <div class="content" onKeyDown={onKeyDown}>{children}</div>
      <div class="buttons" ref={verbs}>
        <Button kind={danger ? "danger" : "primary"} disabled={disabled} onClick={yes}>
          {verb}
        </Button>
        <button type="button" onClick={onClose}>
          {t("cancel")}
        </button>
      </div>
    </Dialog>
  );
}
