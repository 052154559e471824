// Part of every page of the app: links show another page over the connection that is open, which a new load would
// close; a click makes one entry of the history; a link to a heading is scrolled to, however late the heading comes.
"use strict";
(() => {
  if (window.evaluatorNavigation) return; // `streamlit run app.py` sends it with each page
  window.evaluatorNavigation = true;
  const NAVIGATION = "[data-testid^=stTopNav] a, [data-testid^=stSidebarNav] a, a[data-testid^=stTopNav], a[data-testid^=stSidebarNav]";
  const SETTLED_MS = 1500; // how long after a page is done its figures may still change its length
  const LONGEST_MS = 30000;
  const push = history.pushState.bind(history);
  const replace = history.replaceState.bind(history);
  const findApp = () => document.querySelector("[data-testid=stApp]");
  const findView = () => document.querySelector("[data-testid=stMain]"); // what scrolls

  // ---------------------------------------------------------------- where the page is scrolled to

  let wanted = null; // {heading} or {top}, with the times since when it is wanted and the page is done

  const scrollTo = (place) => {
    const isFollowed = wanted !== null;
    wanted = { ...place, since: performance.now(), done: null, wasRunning: false };
    if (!isFollowed) follow();
  };

  const follow = () => {
    if (wanted === null) return;
    const now = performance.now();
    const heading = wanted.heading && document.getElementById(wanted.heading);
    const view = findView();
    if (heading) {
      heading.scrollIntoView({ block: "start", behavior: "instant" });
      if (document.activeElement !== heading) {
        heading.tabIndex = -1; // so that the next Tab continues from here
        heading.focus({ preventScroll: true });
      }
    } else if (view && "top" in wanted) {
      const isThere = Math.abs(view.scrollTop - wanted.top) <= 1;
      const isLongEnough = view.scrollHeight - view.clientHeight >= wanted.top; // else the page is not there yet
      if (wanted.wasThere && !isThere && isLongEnough) { // something else has scrolled it since
        wanted = null;
        return;
      }
      wanted.wasThere = isThere && isLongEnough;
      if (!isThere) view.scrollTop = wanted.top;
    }
    const isRunning = findApp()?.dataset.testScriptState !== "notRunning";
    wanted.wasRunning ||= isRunning;
    if (isRunning || !(wanted.wasRunning || now - wanted.since > SETTLED_MS)) wanted.done = null;
    else wanted.done ??= now;
    if ((wanted.done !== null && now - wanted.done > SETTLED_MS) || now - wanted.since > LONGEST_MS) wanted = null;
    else setTimeout(follow, 50);
  };

  // A reader who scrolls decides where the page is.
  for (const kind of ["wheel", "touchmove", "pointerdown", "keydown"]) {
    addEventListener(kind, () => { wanted = null; }, { capture: true, passive: true });
  }

  const findHeading = (hash) => {
    try {
      return decodeURIComponent(hash.slice(1));
    } catch {
      return hash.slice(1); // of an address that was not encoded
    }
  };

  // ---------------------------------------------------------------- addresses

  // What Streamlit writes into the address: keeps the heading, and where the page was scrolled to. A page that only
  // adds its defaults has no entry of its own in the history, or Back would lead to the same page.
  history.replaceState = (state, unused, url) => {
    const next = new URL(url ?? location.href, location.href);
    if (next.pathname === location.pathname) next.hash ||= location.hash;
    replace({ ...history.state, ...state }, unused, next);
  };
  history.pushState = (state, unused, url) => {
    const next = new URL(url ?? location.href, location.href);
    const isSamePage = next.pathname === location.pathname;
    const chosen = [...new URLSearchParams(location.search)];
    if (isSamePage && chosen.every(([name, value]) => next.searchParams.get(name) === value)) {
      history.replaceState(state, unused, next);
    } else push(state, unused, next);
  };

  const rememberTop = () => {
    const view = findView();
    if (view && wanted === null) replace({ ...history.state, top: view.scrollTop }, "");
  };
  let pause = 0;
  addEventListener("scroll", () => {
    clearTimeout(pause);
    pause = setTimeout(rememberTop, 200);
  }, { capture: true, passive: true });

  // Streamlit shows what the address names as it does after Back, over the connection that is open.
  let isOwn = false;
  const showAddress = () => {
    isOwn = true;
    dispatchEvent(new PopStateEvent("popstate", { state: history.state }));
    isOwn = false;
  };

  addEventListener("popstate", (event) => {
    if (isOwn) return;
    scrollTo(location.hash && !event.state?.top ? { heading: findHeading(location.hash) } : { top: event.state?.top ?? 0 });
  });

  // ---------------------------------------------------------------- links

  // Add to a link what the reader has chosen: in the navigation the release, and wherever the release stays its arm.
  const complete = (anchor) => {
    const here = new URLSearchParams(location.search);
    const url = new URL(anchor.href);
    const release = here.get("release") ?? here.get("b"); // Compare names two
    for (const [name, value] of [["release", release], ["arm", here.get("arm")]]) {
      const isKept = name === "release" ? anchor.matches(NAVIGATION) : url.searchParams.get("release") === release;
      if (isKept && value !== null && !url.searchParams.has(name)) url.searchParams.set(name, value);
    }
    return url;
  };

  const findLink = (event) => {
    const anchor = event.target.closest?.("a[href]");
    if (!anchor || (anchor.target && anchor.target !== "_self") || anchor.hasAttribute("download")) return null;
    const isOurs = anchor.closest(".ev") && /^(\.\/|#)/.test(anchor.getAttribute("href"));
    return isOurs || anchor.matches(NAVIGATION) ? anchor : null;
  };

  const open = (url) => {
    rememberTop();
    const isShown = url.pathname === location.pathname && url.search === location.search;
    if (url.href !== location.href) push({}, "", url);
    scrollTo(url.hash ? { heading: findHeading(url.hash) } : { top: 0 });
    if (!isShown || !url.hash) showAddress();
  };

  addEventListener("click", (event) => {
    const anchor = findLink(event);
    const hasModifier = event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey;
    if (!anchor || hasModifier || event.defaultPrevented) return;
    const url = complete(anchor);
    if (url.origin !== location.origin) return;
    event.preventDefault();
    event.stopPropagation();
    if (findApp()?.dataset.testConnectionState === "CONNECTED") open(url);
    else location.assign(url); // without a connection the page is loaded
  }, true);

  // A link that is opened in another tab takes the same along.
  for (const kind of ["pointerdown", "focusin"]) {
    addEventListener(kind, (event) => {
      const anchor = findLink(event);
      if (anchor?.matches(NAVIGATION)) anchor.href = complete(anchor);
    }, true);
  }

  // ---------------------------------------------------------------- sections of a long page

  const LONGEST_LABEL = 24;
  const HEADING_GAP_PX = 24; // how far below the line of links the heading of the section that is read may be
  const findSections = () => document.querySelector(".ev-sections");

  const listSections = () => {
    const list = findSections();
    if (!list) return;
    const headings = [...findView().querySelectorAll("h2[id]")];
    const links = new Map([...list.children].map((link) => [link.hash, link]));
    for (const [hash, link] of links) if (!headings.some(({ id }) => `#${id}` === hash)) link.remove();
    headings.forEach(({ id, textContent }, place) => {
      const link = links.get(`#${id}`) ?? document.createElement("a");
      const label = textContent.length <= LONGEST_LABEL ? textContent : id[0].toUpperCase() + id.slice(1);
      if (link.textContent !== label) link.textContent = label;
      if (!link.hash) link.href = `#${id}`;
      // One that stands in its place is not moved, which would take the focus from it.
      if (list.children[place] !== link) list.insertBefore(link, list.children[place] ?? null);
    });
    markSection();
  };

  // Mark the section that is read: the last one whose heading has reached the line of links. At the end of the page,
  // where no further heading can, it is the one whose link was followed, or the last one.
  const markSection = () => {
    const list = findSections();
    if (!list?.children.length) return;
    const { scrollTop, clientHeight, scrollHeight } = findView();
    const line = list.getBoundingClientRect().bottom + HEADING_GAP_PX;
    const findTop = (link) => document.getElementById(findHeading(link.hash))?.getBoundingClientRect().top ?? Infinity;
    const links = [...list.children];
    let current = links.findLast((link) => findTop(link) <= line) ?? null;
    if (scrollTop > 0 && scrollTop + clientHeight >= scrollHeight - 2) {
      const followed = links.find((link) => link.hash === location.hash && findTop(link) > line);
      current = followed ?? links.at(-1);
    }
    const marked = list.querySelector("[aria-current]");
    if (marked === current) return;
    marked?.removeAttribute("aria-current");
    current?.setAttribute("aria-current", "true");
    if (!list.contains(document.activeElement)) holdStop(list, current ?? list.firstElementChild);
    if (current) { // the line scrolls, the page does not
      list.scrollLeft = current.offsetLeft - list.offsetLeft - (list.clientWidth - current.offsetWidth) / 2;
    }
  };
  addEventListener("scroll", (event) => { if (event.target === findView()) markSection(); }, { capture: true, passive: true });

  // ---------------------------------------------------------------- one stop of the Tab key for many links

  // Tab goes from one part of a page to the next; within a part, the arrow keys go from link to link. A figure with its
  // buttons is such a part, too.
  const PARTS = ".ev-sections, .ev-banner, .ev-fault, .ev-verdict, .ev-metrics:not(.ev-verdict *), .ev-tiles, .ev-heat, .ev-trends, [class*=st-key-part-]";
  const STOPS = "a[href], button:not(:disabled), summary";
  const listStops = (part) => [...part.querySelectorAll(STOPS)].filter((stop) => stop.checkVisibility());

  const holdStop = (part, held) => {
    for (const stop of listStops(part)) {
      const place = stop === held ? 0 : -1;
      if (stop.tabIndex !== place) stop.tabIndex = place;
    }
  };

  const holdStops = () => {
    for (const part of document.querySelectorAll(PARTS)) {
      const stops = listStops(part);
      const held = stops.filter((stop) => stop.tabIndex === 0);
      const first = stops.find((stop) => stop.ariaCurrent) ?? stops[0];
      const focused = stops.find((stop) => stop === document.activeElement);
      if (first) holdStop(part, focused ?? (held.length === 1 ? held[0] : first));
      part.toggleAttribute("data-arrow-keys", stops.length > 1); // the style names the keys while it has the focus
    }
    // The links to sections lead to the same headings.
    for (const link of document.querySelectorAll("[data-testid=stHeaderActionElements] a")) link.tabIndex = -1;
  };

  addEventListener("toggle", holdStops, true); // what is folded has no stops
  addEventListener("focusin", ({ target }) => {
    const part = target.closest?.(PARTS);
    if (part && target.matches(STOPS)) holdStop(part, target);
  });

  addEventListener("keydown", (event) => {
    const part = event.target.closest?.(PARTS);
    const hasModifier = event.ctrlKey || event.metaKey || event.shiftKey || event.altKey;
    if (!part || !event.target.matches(STOPS) || hasModifier) return;
    const stops = listStops(part);
    const next = findStop(stops, event.target, event.key);
    if (!next) return;
    event.preventDefault();
    next.focus();
  });

  // Find what an arrow key, Home or End leads to; above and below is the nearest one of the next row.
  const findStop = (stops, from, key) => {
    const place = stops.indexOf(from);
    if (key === "Home") return stops[0];
    if (key === "End") return stops.at(-1);
    if (key === "ArrowLeft") return stops[place - 1];
    if (key === "ArrowRight") return stops[place + 1];
    if (key !== "ArrowUp" && key !== "ArrowDown") return null;
    const box = from.getBoundingClientRect();
    const sign = key === "ArrowDown" ? 1 : -1;
    const find = (stop) => {
      const other = stop.getBoundingClientRect();
      return { stop, down: sign * (other.top + other.bottom - box.top - box.bottom) / 2, aside: Math.abs(other.left - box.left) };
    };
    const beyond = stops.map(find).filter(({ down }) => down > box.height / 2);
    const nearest = Math.min(...beyond.map(({ down }) => down)) + box.height / 2;
    return beyond.filter(({ down }) => down <= nearest).sort((one, other) => one.aside - other.aside)[0]?.stop;
  };

  let isListing = false;
  new MutationObserver(() => {
    if (isListing) return;
    isListing = true;
    setTimeout(() => { isListing = false; listSections(); holdStops(); }, 200);
  }).observe(document, { childList: true, subtree: true });

  // ---------------------------------------------------------------- at the start

  if (location.hash) scrollTo({ heading: findHeading(location.hash) });
  else if (history.state?.top) scrollTo({ top: history.state.top }); // after a reload

  // Figures have the colours of the theme in which they were drawn.
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    const { hash } = location;
    setTimeout(() => {
      replace(history.state, "", location.pathname + location.search); // with a heading, Streamlit would not show it again
      showAddress();
      replace(history.state, "", location.pathname + location.search + hash);
    }, 100); // Streamlit has to notice the theme first
  });
})();
