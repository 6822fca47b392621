ActiveRecord::Schema.define(version: 2024_02_01_000000) do
  create_table "orders", force: :cascade do |t|
  end

  create_table "users", force: :cascade do |t|
    t.string "name"
  end
end
