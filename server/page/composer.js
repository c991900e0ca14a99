/** A form whose button sends, and stops the answer while it comes. Escape stops too, and Enter sends. */

import { find } from "./dom.js";

export class Composer {
  /** `send(signal)` does the work, once `ready()` has said that it may; it throws an AbortError when it was stopped. */
  constructor(form, ready, send) {
    this.form = form;
    this.ready = ready;
    this.send = send;
    this.button = find("button.send", form);
    this.label = this.button.textContent;
    this.running = null;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.running) this.stop();
      else this.start();
    });
    form.addEventListener("keydown", (event) => this.onKey(event));
  }

  onKey(event) {
    if (event.key === "Escape" && this.running) this.stop();
    if (event.key !== "Enter" || event.shiftKey || isComposing(event) || event.target.tagName !== "TEXTAREA") return;
    event.preventDefault();
    if (!this.running) this.form.requestSubmit();
  }

  stop() {
    this.running?.abort();
  }

  async start() {
    this.running = new AbortController();
    const { signal } = this.running;
    this.show("Stop");
    try {
      if (await Promise.race([this.ready(), aborted(signal)])) await this.send(signal);
    } finally {
      this.running = null;
      this.show(this.label);
    }
  }

  show(label) {
    this.button.textContent = label;
    this.button.classList.toggle("stop", label === "Stop");
  }
}

/** Resolves, to nothing, once the signal is aborted. */
function aborted(signal) {
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}

/** Whether the key belongs to an input method. Safari ends the composition before it tells of the key that ended it. */
function isComposing(event) {
  return event.isComposing || event.keyCode === 229;
}
