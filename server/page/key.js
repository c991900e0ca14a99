/** The dialog that asks for the API key, and the button that opens it. */

import { apiKey } from "./api.js";
import { find } from "./dom.js";

/** `onKey` is called whenever a key was given. */
export function setUpKey(onKey) {
  const dialog = find("#key-dialog");
  const input = find("input", dialog);
  let asking = null; // requests that fail together ask once

  apiKey.ask = (refused) => {
    if (refused !== undefined && refused !== apiKey.get()) return Promise.resolve(true); // another request has asked
    asking ??= open(refused).finally(() => (asking = null));
    return asking;
  };

  function open(refused) {
    find("#key-wrong").hidden = !refused;
    find("#key-button").hidden = false;
    for (const link of document.querySelectorAll("header nav a")) link.hidden = true; // they would go without the key
    input.value = "";
    dialog.returnValue = "";
    dialog.showModal();
    return new Promise((resolve) => {
      dialog.addEventListener("close", () => resolve(dialog.returnValue === "given"), { once: true });
    });
  }

  find("form", dialog).addEventListener("submit", (event) => {
    event.preventDefault();
    apiKey.set(input.value.trim());
    dialog.close("given");
    onKey();
  });
  find("#key-cancel").addEventListener("click", () => dialog.close());
  find("#key-button").addEventListener("click", () => apiKey.ask());
}
