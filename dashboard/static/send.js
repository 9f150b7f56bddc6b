// Sends what is dropped, chosen or pasted to where its form says, and shows how far it is. Then it goes on to what came of it.
(() => {
  const MAX_FILES = 1000;
  const form = (event) => event.target.closest && event.target.closest("form.us-drop");
  const size = (bytes) => {
    const units = ["B", "kB", "MB", "GB", "TB"];
    let unit = 0;
    while (bytes >= 1000 && unit < units.length - 1) { bytes /= 1000; unit += 1; }
    return `${bytes >= 100 || unit === 0 ? Math.round(bytes) : bytes.toFixed(1)} ${units[unit]}`;
  };
  const say = (form, words, isBad) => {
    const said = form.querySelector(".us-sent-words");
    said.textContent = words;
    said.classList.toggle("us-refusal", Boolean(isBad));
  };

  function send(form, files) {
    if (!files.length || form.classList.contains("sending")) return;
    if (form.dataset.single && files.length > 1) files = files.slice(0, 1);
    if (files.length > MAX_FILES) {
      return say(form, `${files.length.toLocaleString()} files are more than ${MAX_FILES} at a time: pack them as one zip or tar, or use the command line.`, true);
    }
    const address = new URL(form.dataset.send, location.href);
    const bucket = form.querySelector("input[name=bucket]");
    if (bucket) {
      if (!bucket.value || !bucket.checkValidity()) {
        bucket.focus();
        return say(form, "Name a bucket first: lower case letters, digits, dots, dashes.", true);
      }
      address.searchParams.set("bucket", bucket.value);
    }
    let body = files[0];
    if (files.length > 1) {
      body = new FormData();
      for (const file of files) body.append("file", file, file.path || file.webkitRelativePath || file.name);
    } else {
      address.searchParams.set("name", (body.path || body.webkitRelativePath || body.name || "pasted").slice(0, 1000));
    }
    const bar = form.querySelector(".us-sent > div");
    const request = new XMLHttpRequest();
    const ended = (words) => { form.classList.remove("sending"); bar.style.width = "0"; say(form, words, true); };
    request.open("POST", address);
    request.setRequestHeader("X-Understudy-Page", "1");
    if (files.length === 1) request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.onprogress = (event) => {
      bar.style.width = `${100 * event.loaded / (event.total || 1)}%`;
      say(form, `${size(event.loaded)} of ${size(event.total)} sent`);
    };
    request.onerror = () => ended("The connection broke off. Try again; the command line goes on where it was.");
    request.onload = () => {
      let said = {};
      try { said = JSON.parse(request.responseText); } catch (error) { /* said below */ }
      if (request.status >= 300) {
        const detail = typeof said.detail === "string" ? said.detail : `it was refused (${request.status})`;
        return ended(detail);
      }
      const into = bucket ? `&bucket=${encodeURIComponent(bucket.value)}` : "";
      location.assign(form.dataset.next + encodeURIComponent(said.id) + into);
    };
    form.classList.add("sending");
    say(form, "sending");
    request.send(body);
  }

  async function walk(entry, into) {
    if (into.length > MAX_FILES) return;
    if (entry.isFile) {
      const file = await new Promise((done, failed) => entry.file(done, failed));
      file.path = entry.fullPath.replace(/^\//, "");
      into.push(file);
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((done, failed) => reader.readEntries(done, failed));
      if (!some.length) return;
      for (const each of some) await walk(each, into);
    }
  }

  async function dropped(transfer) {
    const entries = [...(transfer.items || [])].map((item) => item.webkitGetAsEntry && item.webkitGetAsEntry());
    if (!entries.some((entry) => entry && entry.isDirectory)) return [...transfer.files];
    const files = [];
    for (const entry of entries) if (entry) await walk(entry, files);
    return files;
  }

  document.addEventListener("change", (event) => {
    if (form(event) && event.target.type === "file") {
      send(form(event), [...event.target.files]);
      event.target.value = "";
    }
  });
  document.addEventListener("submit", (event) => { if (form(event)) event.preventDefault(); });
  // Whoever misses the field has dropped it all the same: the browser would leave the page otherwise.
  const meant = (event) => form(event) || document.querySelector("form.us-drop");
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => {
      if (meant(event) && [...event.dataTransfer.types].includes("Files")) {
        event.preventDefault();
        meant(event).classList.add("over");
      }
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget && meant(event)) meant(event).classList.remove("over");
  });
  document.addEventListener("drop", async (event) => {
    const target = meant(event);
    if (!target || ![...event.dataTransfer.types].includes("Files")) return;
    event.preventDefault();
    target.classList.remove("over");
    send(target, await dropped(event.dataTransfer));
  });
  document.addEventListener("paste", (event) => {
    const target = document.querySelector("form.us-drop[data-paste]");
    const files = [...(event.clipboardData ? event.clipboardData.files : [])];
    if (target && files.length) { event.preventDefault(); send(target, files); }
  });
})();
