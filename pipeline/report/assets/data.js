// Files beside the page that hand over one value each: a page opened from disk may fetch no other.
"use strict";

const camaudit = {
  values: new Map(),
  waiting: new Map(),

  // Called by the files of data/.
  receive(name, value) {
    this.values.set(name, value);
  },

  // The value of data/NAME.js; the file is fetched once.
  load(name) {
    if (!this.waiting.has(name)) {
      this.waiting.set(
        name,
        new Promise((done, fail) => {
          const script = document.createElement("script");
          script.src = `data/${name}.js`;
          script.onload = () => done(this.values.get(name));
          script.onerror = () => {
            this.waiting.delete(name); // it may be there the next time
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
