// A page opened from a folder may not read other files, so the search shows its results there without their excerpts.
if (location.protocol === "file:") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}

// A drawing with stages is shown one stage after the other, by buttons. Without scripts, and on paper, all of it is seen.
document.addEventListener("DOMContentLoaded", () => {
  for (const drawing of document.querySelectorAll("svg.nw-d")) {
    const stages = [...drawing.querySelectorAll(".nw-d-stage")];
    const buttons = stages.map(() => document.createElement("button"));
    const show = (now) => {
      stages.forEach((stage, i) => stage.classList.toggle("nw-d-yet", i > now));
      buttons.forEach((button, i) => button.setAttribute("aria-current", i === now ? "step" : "false"));
    };
    buttons.forEach((button, i) => {
      // What a stage says in words is its last group. Who does not see the drawing hears it with the button.
      const said = [...stages[i].lastElementChild.children].map((line) => line.textContent).join(" ");
      button.type = "button";
      button.textContent = `${i + 1}`;
      button.setAttribute("aria-label", `Step ${i + 1}: ${said}`);
      button.addEventListener("click", () => show(i));
    });
    if (stages.length) {
      const row = document.createElement("div");
      row.className = "nw-stages";
      row.setAttribute("role", "group");
      row.setAttribute("aria-label", "Steps of the drawing");
      row.append("Step ", ...buttons);
      drawing.after(row);
      show(stages.length - 1);  // complete at first, for those who do not press
    }
  }
});
