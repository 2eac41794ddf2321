// Data files that pass one value each to the page: a page opened from disk cannot fetch other files.
"use strict";

const camaudit = {
  values: new Map(),
  waiting: new Map(),

  // Called by the files of data/.
  receive(name, value) {
    this.values.set(name, value);
  },

  // Load the value of data/NAME.js; the file is loaded once.
  load(name) {
    if (!this.waiting.has(name)) {
      this.waiting.set(
        name,
        new Promise((done, fail) => {
          const script = document.createElement("script");
          script.src = `data/${name}.js`;
          script.onload = () => done(this.values.get(name));
          script.onerror = () => {
            this.waiting.delete(name); // the next call tries again
            fail(new Error(`data/${name}.js cannot be read`));
          };
          document.head.append(script);
        }),
      );
    }
    return this.waiting.get(name);
  },

  trouble(error) {
    const place = document.querySelector("#trouble");
    place.textContent = `${error.message}. Is the whole folder of the report there?`;
    place.hidden = false;
  },
};
