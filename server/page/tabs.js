/** The tabs. Only those of the tasks that the server offers are shown. */

import { find, roveFocus } from "./dom.js";

export class Tabs {
  constructor() {
    this.tabs = [...document.querySelectorAll("[role=tab]")];
    roveFocus(find("[role=tablist]"), () => this.offered, (tab) => this.select(tab));
    for (const tab of this.tabs) tab.addEventListener("click", () => this.select(tab));
    this.select(this.tabs[0]);
  }

  get offered() {
    return this.tabs.filter((tab) => !tab.hidden);
  }

  select(selected) {
    this.selected = selected;
    for (const tab of this.tabs) {
      tab.setAttribute("aria-selected", tab === selected);
      tab.tabIndex = tab === selected ? 0 : -1;
      panelOf(tab).hidden = tab !== selected;
    }
  }

  /** Hides the tabs of these panels. */
  without(names) {
    for (const tab of this.tabs) tab.hidden = names.includes(panelOf(tab).id);
    if (this.selected.hidden) this.select(this.offered[0]);
  }
}

function panelOf(tab) {
  return find(`#${tab.getAttribute("aria-controls")}`);
}
