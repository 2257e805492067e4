// Browsers start no worker for a page that is read from a file, so there the search would not work. Here its script runs
// in a hidden frame instead, with the messages of a worker. Served pages keep the browser's own workers.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.documentElement.append(frame);
      const inner = frame.contentWindow;
      inner.postMessage = (data) => {
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        this.onmessage?.(event);
      };
      inner.importScripts = (...urls) => urls.reduce((done, next) => done.then(() => load(inner, next)), Promise.resolve());
      load(inner, url).then(() => {
        this.inner = inner;
        this.waiting.splice(0).forEach((data) => this.postMessage(data));
      });
      this.terminate = () => frame.remove();
    }

    postMessage(data) {
      if (this.inner) {
        const event = new this.inner.MessageEvent("message", { data });
        this.inner.dispatchEvent(event);
      } else {
        this.waiting.push(data);
      }
    }
  };

  const load = (inner, url) =>
    new Promise((done, failed) => {
      const script = inner.document.createElement("script");
      Object.assign(script, { src: new URL(url, location).href, onload: done, onerror: failed });
      inner.document.documentElement.append(script);
    });
}
