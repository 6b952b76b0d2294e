/** The saved page: data that are in it, shown. */

import { element } from "./elements";
import { reportHeight } from "./framed";
import { ALONE, show } from "./show";
import { embedded } from "./source";

function failed(error: unknown): void {
  const reason = error instanceof Error ? error.message : String(error);
  document.body.replaceChildren(element("p", { class: "missing", role: "alert" }, `This page could not be shown. ${reason}`));
}

reportHeight();
const root = element("div", { id: "view" });
document.body.prepend(root);
show(embedded("nnsight-vlm-view"), root, ALONE).catch(failed);
